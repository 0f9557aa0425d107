FROM a
COPY --link=yes x y
