# check=skip=all
from a As B
MAINTAINER me
