FROM a
COPY --link --link=false x y
