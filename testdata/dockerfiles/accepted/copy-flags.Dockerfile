FROM a
COPY --from=b --chown=1:2 --chmod=u=rwX,go=rX --link --parents=true --exclude=*.o --exclude=x/** a b /c/
