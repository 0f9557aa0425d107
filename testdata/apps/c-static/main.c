#include "count.h"

#include <stdio.h>
#include <string.h>

static int count_file(const char *path)
{
	FILE *stream = strcmp(path, "-") ? fopen(path, "r") : stdin;
	struct counts counts;

	if (!stream) {
		perror(path);
		return 1;
	}
	counts = count_stream(stream);
	printf("%lu %lu %lu %s\n", counts.lines, counts.words, counts.bytes, path);
	if (stream != stdin)
		fclose(stream);
	return 0;
}

int main(int argc, char **argv)
{
	int status = 0;

	if (argc < 2 || !strcmp(argv[1], "--help")) {
		puts("usage: wordcount FILE...   (- is standard input)");
		return argc < 2;
	}
	for (int i = 1; i < argc; i++)
		status |= count_file(argv[i]);
	return status;
}
