FROM a
RUN --security=privileged make
