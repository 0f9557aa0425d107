ln -s leaf tree/sub/link; chmod 755 tree/sub/leaf
