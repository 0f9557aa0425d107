FROM a
RUN make \
  && make test
  && make install
