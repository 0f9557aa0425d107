FROM a
COPY --exclude=größe/à x y
