/*
 * apps/farmem.c: the farmem command line: chooses the subcommand, prints help.
 *
 * Options live in tables (base/options.h): --help here and the man pages (farmem --man NAME, used
 * by the build of docs/) are printed from the same rows that parse the flags.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "base/config.h"

static int help_command(int argc, char **argv);
static int version_command(int argc, char **argv);

const struct command commands[] = {
	{"run", "[FLAGS] [--] PROGRAM [ARGUMENT]...", "run a program with its heap in far memory",
		config_specs, &config_specs_count, run_command},
	{"record", "[FLAGS] [--] PROGRAM [ARGUMENT]...",
		"run a program in far memory and sample who faults", config_specs,
		&config_specs_count, record_command},
	{"report", "[FLAGS] [FILE]", "tell which lines of code fault, how often, at what cost",
		report_specs, &report_specs_count, report_command},
	{"top", "[FLAGS] [PID]", "show what running programs do with far memory", top_specs,
		&top_specs_count, top_command},
	{"nodes", "[FLAGS]", "show the memory nodes of running programs, and what goes on there",
		nodes_specs, &nodes_specs_count, nodes_command},
	{"drain", "[FLAGS] NODE", "move everything off a memory node, so that it can go",
		drain_specs, &drain_specs_count, drain_command},
	{"inspect", "[FLAGS] PID",
		"show a program's catalog and check that every slot is accounted for",
		inspect_specs, &inspect_specs_count, inspect_command},
	{"doctor", "[FLAGS]", "tell what this machine can do, and what to type where it cannot",
		doctor_specs, &doctor_specs_count, doctor_command},
	{"help", "[COMMAND]", "show this text, or the flags of a command", NULL, NULL,
		help_command},
	{"version", "", "print the version", NULL, NULL, version_command},
	{NULL, NULL, NULL, NULL, NULL, NULL},
};

static const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static void overview_print(void)
{
	printf("farmem: more memory for unmodified programs, from other machines, that survives "
	       "theirs\n"
	       "\nusage: farmem COMMAND [ARGUMENT]...\n\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-8s %s\n", c->name, c->summary);
	printf("\n  farmem run --local 256M -- redis-server --save ''\n"
	       "\n`farmem COMMAND --help` lists the flags of a command.\n");
}

void command_print_help(const char *name)
{
	const struct command *c = command_find(name);

	printf("usage: farmem %s %s\n%s\n", c->name, c->arguments, c->summary);
	if (!c->specs)
		return;
	printf("\n");
	fflush(stdout);
	options_print_help(c->specs, *c->specs_count, STDOUT_FILENO);
}

bool command_wants_help(int argc, char *const *argv)
{
	for (int i = 0; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

static int help_command(int argc, char **argv)
{
	if (argc == 0) {
		overview_print();
		return EXIT_OK;
	}
	if (!command_find(argv[0])) {
		complain("no command '%s': `farmem help` lists them", argv[0]);
		return EXIT_USAGE;
	}
	command_print_help(argv[0]);
	return EXIT_OK;
}

static int version_command(int argc, char **argv)
{
	(void)argc, (void)argv;
	printf("farmem %s\n", FM_VERSION);
	return EXIT_OK;
}

/* Hidden: the option part of a man page, for docs/CMakeLists.txt. */
static int man_command(const char *name)
{
	const struct command *c = name ? command_find(name) : NULL;

	if (!c || !c->specs) {
		complain("--man needs a command with flags");
		return EXIT_USAGE;
	}
	options_print_man(c->specs, *c->specs_count, STDOUT_FILENO);
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	const struct command *c;
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name) {
		overview_print();
		return EXIT_USAGE;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		name = "help";
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
		name = "version";
	if (strcmp(name, "--man") == 0)
		return man_command(argv[2]);
	c = command_find(name);
	if (!c) {
		complain("no command '%s': `farmem help` lists them", name);
		return EXIT_USAGE;
	}
	return c->run(argc - 2, argv + 2);
}
