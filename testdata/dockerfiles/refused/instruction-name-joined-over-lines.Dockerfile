FROM a
RUN\
make
