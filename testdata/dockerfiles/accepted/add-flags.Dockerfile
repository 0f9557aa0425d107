FROM a
ADD --keep-git-dir --checksum=sha256:00 --unpack=false --link=false --chown=$U https://example.com/a.tar git@example.com:a/b.git#main:dir /x
