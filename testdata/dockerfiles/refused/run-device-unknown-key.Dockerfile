FROM a
RUN --device=gpu,requird=true make
