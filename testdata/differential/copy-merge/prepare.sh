chmod 750 tree/nested
