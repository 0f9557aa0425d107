FROM a
RUN["make"]
