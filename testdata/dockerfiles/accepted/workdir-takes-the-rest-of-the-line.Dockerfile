FROM a
WORKDIR /a b/c
USER me:us 
