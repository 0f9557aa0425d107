FROM a
RUN <<EOF
make
  make test
EOF
