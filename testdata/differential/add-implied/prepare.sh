python3 -c 'import tarfile, io
t = tarfile.open("a.tar", "w")
for name in ("deep/er/leaf", "./dot/leaf", "/absolute/leaf", "a/../b/leaf", "a//twice"):
    i = tarfile.TarInfo(name); i.size = 1; i.mode = 0o640; i.mtime = 1000000000; t.addfile(i, io.BytesIO(b"x"))'
