FROM a
COPY --link= x y
