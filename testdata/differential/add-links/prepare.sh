python3 -c 'import tarfile, io
t = tarfile.open("a.tar", "w")
def add(name, kind=tarfile.REGTYPE, link="", text=b"", mode=0o644):
    i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(text); i.mode = mode; i.mtime = 1000000000
    t.addfile(i, io.BytesIO(text))
add("inner", text=b"x"); add("hard", tarfile.LNKTYPE, "inner"); add("abs", tarfile.SYMTYPE, "/etc"); add("up", tarfile.SYMTYPE, "../../etc")
add("dir", tarfile.DIRTYPE, mode=0o755); add("dir/link", tarfile.SYMTYPE, "../inner"); add("loop", tarfile.SYMTYPE, "loop")
add("twice", text=b"one"); add("twice", text=b"two", mode=0o600)
add("becomes", tarfile.DIRTYPE, mode=0o700); add("becomes", text=b"file")'
