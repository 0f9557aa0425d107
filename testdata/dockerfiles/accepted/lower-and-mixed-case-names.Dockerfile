from a
run make
Cmd ["x"]
