FROM a #base
