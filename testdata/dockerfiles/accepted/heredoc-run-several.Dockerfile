FROM a
RUN 3<<A cat <<-'B' /dev/fd/3 > x
a
A
	b
	B
