# syntax=docker/dockerfile:1
# SYNTAX=docker/dockerfile:2
FROM a
