FROM a
HEALTHCHECK cmd ["curl", "x"]
