FROM a
COPY --chmod=755 <<a.sh b <<"c d" /x/
echo $A
a.sh
c
c d
