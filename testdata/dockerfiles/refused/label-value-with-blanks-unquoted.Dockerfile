FROM a
LABEL title=My App
