python3 -c 'import tarfile, io
t = tarfile.open("a.tar", "w"); i = tarfile.TarInfo("../climbed"); i.size = 1; t.addfile(i, io.BytesIO(b"x"))'
