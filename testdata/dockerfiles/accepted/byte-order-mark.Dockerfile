FROM a
RUN make
