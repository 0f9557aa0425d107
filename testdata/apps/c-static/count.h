#ifndef COUNT_H
#define COUNT_H

#include <stdio.h>

struct counts {
	unsigned long lines, words, bytes;
};

/* Counts what is left to read of a stream. */
struct counts count_stream(FILE *stream);

#endif
