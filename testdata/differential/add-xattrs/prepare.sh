python3 -c 'import tarfile, io, struct
t = tarfile.open("a.tar", "w", format=tarfile.PAX_FORMAT)
def add(name, kind, xattrs, text=b""):
    i = tarfile.TarInfo(name); i.type = kind; i.size = len(text); i.mode = 0o755; i.mtime = 1000000000
    i.pax_headers = {"SCHILY.xattr." + k: v.decode("utf-8", "surrogateescape") for k, v in xattrs.items()}
    t.addfile(i, io.BytesIO(text))
cap = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
add("note", tarfile.REGTYPE, {"user.note": b"text", "user.two": b"2"}, b"x")
add("cap", tarfile.REGTYPE, {"security.capability": cap}, b"y")
add("dir", tarfile.DIRTYPE, {"user.dir": b"d"})'
