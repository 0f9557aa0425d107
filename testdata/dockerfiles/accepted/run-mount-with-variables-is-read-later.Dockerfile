FROM a
ARG T=cache
RUN --mount=type=$T,target=/$T make
RUN --mount=type=wrong make
