FROM a
ONBUILD RUN ["a"]
onbuild   copy --from=b x y
ONBUILD FOO bar
