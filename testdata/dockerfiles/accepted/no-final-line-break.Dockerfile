FROM a
RUN make