# check=ignore=all
FROM a
