# check=skip=FromAsCase;error=true
FROM a AS b
