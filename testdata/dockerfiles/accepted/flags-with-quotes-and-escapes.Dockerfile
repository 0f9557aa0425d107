FROM a
COPY --from="b" --chown='1:2' --exclude=a\ b x y
