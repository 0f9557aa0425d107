#include "count.h"

#include <ctype.h>

struct counts count_stream(FILE *stream)
{
	struct counts counts = {0, 0, 0};
	int in_word = 0;
	int c;

	while ((c = getc(stream)) != EOF) {
		counts.bytes++;
		if (c == '\n')
			counts.lines++;
		if (isspace(c)) {
			in_word = 0;
		} else if (!in_word) {
			in_word = 1;
			counts.words++;
		}
	}
	return counts;
}
