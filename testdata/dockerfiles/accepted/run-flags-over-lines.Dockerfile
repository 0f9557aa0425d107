FROM a
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=secret,id=t,env=T \
    make
