FROM a
RUN [["sleep"], "5"]
