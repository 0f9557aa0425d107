FROM a
RUN make
