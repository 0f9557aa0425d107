FROM a
RUN <<EOF
make
