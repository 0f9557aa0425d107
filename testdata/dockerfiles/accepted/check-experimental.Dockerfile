# check=experimental=InvalidDefinitionDescription
# something else
ARG A
# b is the base
FROM a AS b
# not c
FROM a AS c
