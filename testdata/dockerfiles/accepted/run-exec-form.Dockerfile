FROM a
RUN ["a", "b c", "\u00e9\n"]
