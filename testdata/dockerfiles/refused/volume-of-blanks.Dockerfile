FROM a
VOLUME ["/x", " "]
