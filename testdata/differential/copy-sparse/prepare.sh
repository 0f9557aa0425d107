truncate -s 2000000 sparse; printf middle | dd of=sparse bs=1 seek=1000000 conv=notrunc 2>/dev/null
