FROM a
COPY <<A <<A /x/
one
A
two
A
