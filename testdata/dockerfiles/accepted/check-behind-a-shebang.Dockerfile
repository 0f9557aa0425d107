#!/usr/bin/env dockerfile
# check=skip=MaintainerDeprecated
FROM a
MAINTAINER me
