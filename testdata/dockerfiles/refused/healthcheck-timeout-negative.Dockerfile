FROM a
HEALTHCHECK --timeout=-1s CMD x
