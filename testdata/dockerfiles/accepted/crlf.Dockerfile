FROM a
RUN make \
  && make test
COPY <<EOF /x
body
EOF
CMD ["x"]
