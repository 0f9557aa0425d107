FROM a
RUN --mount=target=. --mount=type=bind,from=b,source=/x,dst=/y,rw --mount=type=cache,id=c,target=/c,sharing=locked,mode=0700,uid=1,gid=2 --mount=type=tmpfs,target=/t,size=64m --mount=type=ssh,required --mount=type=secret,id=s,target=/s,required=true make
