FROM a
SHELL ["/bin/bash", "-c"]
CMD a
