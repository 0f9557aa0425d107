FROM a
ENV A b  c=d
LABEL k v
