FROM a
ADD --parents x y
