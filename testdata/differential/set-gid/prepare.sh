tar --owner=0 --group=0 -cf a.tar tree; tar --owner=0 --group=0 -rf a.tar file
