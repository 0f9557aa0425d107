FROM a
WORKDIR --create /x
