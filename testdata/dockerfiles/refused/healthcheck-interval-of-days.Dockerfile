FROM a
HEALTHCHECK --interval=1d CMD x
