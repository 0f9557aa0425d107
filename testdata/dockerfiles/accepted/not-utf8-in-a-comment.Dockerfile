# André
FROM a
