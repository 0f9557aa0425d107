  FROM a
	RUN make
