FROM a
ARG --x=y A=b
