FROM a
ARG N=host
RUN --network=$N make
