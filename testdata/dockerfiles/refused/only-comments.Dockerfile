# FROM a

# nothing else
