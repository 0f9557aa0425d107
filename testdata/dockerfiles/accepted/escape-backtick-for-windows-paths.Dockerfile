# escape=`
FROM a
WORKDIR C:\x\
COPY a `
 C:\
ENV A=b` c
