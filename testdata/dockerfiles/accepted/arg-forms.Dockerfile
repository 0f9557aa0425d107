FROM a
ARG A
ARG B= C="d e" F='g'
