FROM a
COPY --form=b --link=x --chown x
