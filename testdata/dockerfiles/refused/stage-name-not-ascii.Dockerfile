FROM a AS größe
