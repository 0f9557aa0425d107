FROM a
RUN --device=gpu,optional make
