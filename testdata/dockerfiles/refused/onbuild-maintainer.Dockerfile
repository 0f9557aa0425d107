FROM a
ONBUILD maintainer me
