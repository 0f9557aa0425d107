FROM a AS scratch
FROM a AS context
