tar --owner=0 --group=0 -cf - tree | zstd -q > z.tar.zst
