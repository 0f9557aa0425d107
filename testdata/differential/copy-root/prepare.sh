chmod 700 tree tree/etc
