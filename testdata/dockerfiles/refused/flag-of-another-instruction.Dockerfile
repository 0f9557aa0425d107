FROM a
ADD --from=b x y
