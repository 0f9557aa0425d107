FROM a
COPY ["<<EOF", "/x"]
