FROM a
CMD ["a", true]
