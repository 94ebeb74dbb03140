/*
 * docs/man_options.c: prints the option table of a daemon as roff, for its man page. Run by the
 * build only; the tables of `farmem` itself are printed by its hidden --man.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "memnode/daemon_options.h"

/* The daemon reads no variables (memnode/daemon_options.c), so its page must name none. */
static int print_memnode(void)
{
	struct option_spec specs[128];

	if (daemon_specs_count > FM_ARRAY_COUNT(specs))
		return 1;
	for (unsigned i = 0; i < daemon_specs_count; i++) {
		specs[i] = daemon_specs[i];
		specs[i].flag_only = true;
	}
	options_print_man(specs, daemon_specs_count, STDOUT_FILENO);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "memnode") == 0)
		return print_memnode();
	fprintf(stderr, "usage: man_options memnode\n");
	return 2;
}
