FROM a
RUN --device=gpu,name=other make
