FROM a
COPY --from=b
