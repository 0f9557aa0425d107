# hello
# escape=`
FROM a
COPY a b `
