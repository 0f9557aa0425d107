FROM a as b
from a AS c
From a As d
