FROM a
COPY <<-EOF /x
	one
		two
 three
	EOF
