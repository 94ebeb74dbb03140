/*
 * apps/lbsim.c: fm-lbsim: simulated fleets under the balancer that real channels use: chooses the
 * command. See lbsim.h and docs/load-balancing.md.
 *
 * Exit 0: done. 1: an experiment's claim does not hold, or a file cannot be written. 2: the user's
 * mistake.
 */
#include <string.h>
#include <unistd.h>

#include "apps/lbsim.h"

struct command {
	const char *name, *arguments, *summary;
};

static const struct command commands[] = {
	{"sweep", "[FLAGS]", "p99 and goodput against the load, for several policies"},
	{"curve", "[FLAGS]", "p99 against the probing rate f, at fixed rates"},
	{"tuner", "[FLAGS]", "how the adaptive policy's rate moves, as CSV"},
	{"experiment", "e1|e2|e3|fleet [FLAGS]",
		"the experiments of docs/load-balancing.md, judged"},
	{NULL, NULL, NULL},
};

static void help(void)
{
	printf("fm-lbsim: a discrete-event simulator that runs farmem's load balancer\n\n"
	       "usage: fm-lbsim COMMAND [FLAGS]\n\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-11s %-22s %s\n", c->name, c->arguments, c->summary);
	printf("\n  fm-lbsim sweep --servers 1000 --service bimodal --load 0.5..0.95 --policy all\n"
	       "\npolicies: %s\n\n",
		balancer_policy_names());
	fflush(stdout);
	options_print_help(lbsim_specs, lbsim_specs_count, STDOUT_FILENO);
}

static bool asks_for(int argc, char **argv, const char *long_name, const char *letter)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], long_name) == 0 || strcmp(argv[i], letter) == 0)
			return true;
	return false;
}

static int read_flags(struct lbsim_options *options, int argc, char **argv, int index)
{
	struct option_error error = {""};

	if (options_set_defaults(lbsim_specs, lbsim_specs_count, options, &error) < 0 ||
		options_read_flags(
			lbsim_specs, lbsim_specs_count, options, argc, argv, &index, &error) < 0) {
		lbsim_complain("%s", error.text);
		return LBSIM_USAGE;
	}
	if (index < argc) {
		lbsim_complain("'%s' is no flag: see fm-lbsim --help", argv[index]);
		return LBSIM_USAGE;
	}
	return LBSIM_OK;
}

static int run(const char *name, int argc, char **argv)
{
	struct lbsim_options options = {0};
	bool experiment = strcmp(name, "experiment") == 0;
	const char *which = argc > 2 ? argv[2] : "";

	if (experiment && (which[0] == '\0' || which[0] == '-')) {
		lbsim_complain("experiment: which one? e1, e2, e3 or fleet");
		return LBSIM_USAGE;
	}
	if (read_flags(&options, argc, argv, experiment ? 3 : 2) != LBSIM_OK)
		return LBSIM_USAGE;
	if (strcmp(name, "sweep") == 0)
		return lbsim_sweep(&options);
	if (strcmp(name, "curve") == 0)
		return lbsim_curve(&options);
	if (strcmp(name, "tuner") == 0)
		return lbsim_tuner(&options);
	return lbsim_experiment(&options, which);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		help();
		return LBSIM_USAGE;
	}
	if (asks_for(argc, argv, "--help", "-h") || strcmp(argv[1], "help") == 0) {
		help();
		return LBSIM_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("fm-lbsim %s\n", FM_VERSION);
		return LBSIM_OK;
	}
	/* Hidden: the flags as roff, for the man page. */
	if (strcmp(argv[1], "--man") == 0) {
		options_print_man(lbsim_specs, lbsim_specs_count, STDOUT_FILENO);
		return LBSIM_OK;
	}
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, argv[1]) == 0)
			return run(c->name, argc, argv);
	lbsim_complain("no command '%s': sweep, curve, tuner or experiment", argv[1]);
	return LBSIM_USAGE;
}
