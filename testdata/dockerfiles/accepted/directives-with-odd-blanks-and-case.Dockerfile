#ESCAPE = `
#  syntax=docker/dockerfile:1  
# Check = skip=all
FROM a
RUN a `
  b
