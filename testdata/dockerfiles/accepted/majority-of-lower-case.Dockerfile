from a
run x
COPY a b
