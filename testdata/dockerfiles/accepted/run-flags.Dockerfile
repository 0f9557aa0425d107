FROM a
RUN --network=none --security=insecure --device=vendor.com/gpu=all,required --device=name=x make --network=host
