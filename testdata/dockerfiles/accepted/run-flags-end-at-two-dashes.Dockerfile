FROM a
RUN --network=none -- --network=host
