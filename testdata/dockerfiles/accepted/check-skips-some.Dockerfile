# check=skip=FromAsCasing,StageNameCasing
from a As B
MAINTAINER me
