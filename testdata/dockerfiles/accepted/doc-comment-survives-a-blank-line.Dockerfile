# build compiles

FROM a AS build
