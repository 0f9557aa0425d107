FROM a
RUN <<-EOF
  make
  EOF
