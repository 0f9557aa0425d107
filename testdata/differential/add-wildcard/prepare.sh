for n in one two; do echo $n > $n; tar --owner=0 --group=0 -cf $n.tar $n file; rm $n; done
