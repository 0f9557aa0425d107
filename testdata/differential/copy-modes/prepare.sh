mkdir tree; cd tree
for m in 000 400 444 644 664 755 777 4755 2755 1644 6711; do echo $m > f$m; chmod $m f$m; mkdir d$m; chmod $m d$m; done
echo x > setuid; chmod 4711 setuid; : > none; chmod 0 none
chown 12:34 f644
