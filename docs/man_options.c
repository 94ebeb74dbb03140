/*
 * docs/man_options.c: prints the option table of a daemon as roff, for its man page. Run by the
 * build only; the tables of `farmem` itself are printed by its hidden --man.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "memnode/daemon_options.h"

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "memnode") == 0) {
		options_print_man(daemon_specs, daemon_specs_count, STDOUT_FILENO);
		return 0;
	}
	fprintf(stderr, "usage: man_options memnode\n");
	return 2;
}
