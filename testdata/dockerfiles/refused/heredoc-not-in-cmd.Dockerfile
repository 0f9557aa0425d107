FROM a
CMD <<EOF
make
EOF
