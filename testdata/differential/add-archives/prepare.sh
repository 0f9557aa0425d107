t="tar --owner=0 --group=0 --mtime=2010-01-01T00:00:00Z --sort=name"
$t -cf plain.tar tree; $t -czf gz.tar.gz tree; $t -cjf bz2.tbz tree; $t -cJf xz tree; cp gz.tar.gz misnamed.txt
mkdir sub; cp plain.tar sub/
