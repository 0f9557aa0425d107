chmod 755 tree/sub/program
