mkdir -p tree/sub; echo x > tree/leaf; echo y > tree/sub/cap
python3 -c 'import os, struct
os.setxattr("tree/leaf", "user.note", b"text")
os.setxattr("tree/sub", "user.bytes", bytes(range(256)))
os.setxattr("tree/sub/cap", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))'
