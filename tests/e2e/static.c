/* tests/e2e/static.c: linked statically, so that no preload reaches it: `farmem run` has to say so. */
#include <stdio.h>

int main(void)
{
	puts("a static program ran");
	return 0;
}
