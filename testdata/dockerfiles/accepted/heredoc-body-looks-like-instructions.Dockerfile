FROM a
RUN <<EOF
FROM b
# comment
EOF2

EOF
CMD ["x"]
