ARG V=1
FROM --platform=$BUILDPLATFORM golang:$V AS Build
RUN make
FROM build
FROM scratch AS last-one_2.0
COPY --from=build /x /x
