FROM a
RUN --mount= make
