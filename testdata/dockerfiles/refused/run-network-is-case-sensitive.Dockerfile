FROM a
RUN --network=None make
