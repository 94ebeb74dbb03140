/* tests/e2e/static.c: linked statically: no preload reaches it, and `farmem run` has to say so. */
#include <stdio.h>

int main(void)
{
	puts("a static program ran");
	return 0;
}
