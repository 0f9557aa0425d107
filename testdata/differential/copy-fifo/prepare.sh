mkdir tree; mkfifo -m 620 tree/fifo; echo x > tree/leaf
