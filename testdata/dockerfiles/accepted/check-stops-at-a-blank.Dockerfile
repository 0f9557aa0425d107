# check=skip=FromAsCasing, MaintainerDeprecated
FROM a as b
MAINTAINER me
