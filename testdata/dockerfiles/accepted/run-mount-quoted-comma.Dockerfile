FROM a
RUN --mount='"target=/a,b"' make
