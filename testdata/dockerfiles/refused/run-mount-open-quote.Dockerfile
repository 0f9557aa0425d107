FROM a
RUN --mount='"target=/a' make
