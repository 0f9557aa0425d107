mkdir -p tree/sub; cd tree; echo x > x; ln x y; ln -s x z; mkfifo fifo; echo s > setuid; chmod 0711 sub; chown 5:6 x sub; chown -h 7:8 z; chown 9 setuid; chmod 6755 setuid; chmod 1777 .
tar --numeric-owner --mtime=2010-01-01T00:00:00Z --sort=name -cf ../a.tar .
