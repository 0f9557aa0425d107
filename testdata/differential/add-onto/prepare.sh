mkdir -p t/dir t/link t/file; cd t; echo new > dir/new; echo new > link/new; echo new > tofile; rmdir file; echo new > file; echo new > full; chmod 755 dir
tar --numeric-owner --owner=1 --group=1 --mtime=2010-01-01T00:00:00Z --sort=name -cf ../a.tar .
cd ..; rm -r t
