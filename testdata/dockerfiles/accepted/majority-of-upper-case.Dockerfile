FROM a
RUN x
copy a b
Env A=b
