#include <stdio.h>
#include <unistd.h>

int main(void)
{
	char host[64] = "";

	gethostname(host, sizeof host - 1);
	printf("hello from an image of one file, as process %d on %s\n", (int)getpid(), host);
	return 0;
}
