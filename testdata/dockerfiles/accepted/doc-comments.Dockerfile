# V is the version
ARG V=1
# build compiles
# it all
FROM a AS build
#
# T no

# A is one, B another
# B is two
ARG A B=2
