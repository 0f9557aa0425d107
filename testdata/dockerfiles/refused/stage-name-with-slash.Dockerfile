FROM a AS build/arm
