FROM a
RUN a \
# b is this
  && b
ARG b
