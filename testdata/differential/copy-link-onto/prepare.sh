mkdir tree; ln -s target tree/one; ln -s target tree/two; echo x > tree/target
