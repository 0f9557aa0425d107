FROM a
RUN ['a', 'b']
RUN ["c:\x"]
RUN ["a"] && b
RUN [ -f x ] || y
