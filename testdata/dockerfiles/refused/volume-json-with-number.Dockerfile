FROM a
VOLUME ["/x", 1]
