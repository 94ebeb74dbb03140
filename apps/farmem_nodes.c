/*
 * apps/farmem_nodes.c: `farmem nodes`: who lends memory to this user's programs, and how they are.
 *
 * Prints once; with --watch again and again, on a terminal over the former. What is shown:
 * farmem_nodes_read.c and farmem_nodes_table.c.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_nodes.h"
#include "apps/farmem_places.h"
#include "base/clock.h"
#include "base/config.h"

struct nodes_options {
	bool once, watch, json;
	uint64_t interval_ns;
	char dir[sizeof(((struct fm_config *)0)->dir)];
	char tree[128];
};

const struct option_spec nodes_specs[] = {
	{.name = "once",
		.type = OPTION_BOOL,
		.offset = offsetof(struct nodes_options, once),
		.help = "print once and leave: so it does without --watch, too",
		.flag_only = true},
	{.name = "watch",
		.letter = 'w',
		.type = OPTION_BOOL,
		.offset = offsetof(struct nodes_options, watch),
		.help = "print again every interval, until ctrl-C",
		.flag_only = true},
	{.name = "interval",
		.letter = 'i',
		.type = OPTION_DURATION,
		.offset = offsetof(struct nodes_options, interval_ns),
		.min = 10 * NS_PER_MS,
		.value = "1s",
		.argument = "TIME",
		.help = "of --watch",
		.flag_only = true},
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct nodes_options, json),
		.help = "print what the agents say: a JSON array of trees on one line",
		.flag_only = true},
	{.name = "tree",
		.type = OPTION_STRING,
		.offset = offsetof(struct nodes_options, tree),
		.size = sizeof(((struct nodes_options *)0)->tree),
		.argument = "NAME",
		.help = "ask the agent of this tree only",
		.flag_only = true},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct nodes_options, dir),
		.size = sizeof(((struct nodes_options *)0)->dir),
		.argument = "PATH",
		.help = "run-time directory in which to look for agents; without it that of the\n"
			"configuration, as for run",
		.flag_only = true},
};
const unsigned nodes_specs_count = FM_ARRAY_COUNT(nodes_specs);

static int print_json(const struct nodes_view *view)
{
	char *text = cJSON_PrintUnformatted(view->trees);

	if (!text)
		return -ENOMEM;
	printf("%s\n", text);
	free(text);
	return fflush(stdout) == 0 ? 0 : -errno;
}

static int nodes_print(const struct nodes_options *options, const char *dir)
{
	const char *tree = options->tree[0] ? options->tree : NULL;
	bool terminal = isatty(STDOUT_FILENO);
	struct nodes_view view;
	int rc = nodes_gather(dir, tree, &view);

	if (rc == 0 && options->json) {
		rc = print_json(&view);
	} else if (rc == 0) {
		if (options->watch && terminal)
			printf("\033[H\033[J"); /* home, clear */
		nodes_render(stdout, &view, terminal);
		rc = fflush(stdout) == 0 ? 0 : -errno;
	}
	if (rc == 0 && tree && view.agents + view.silent == 0) {
		complain("nodes: no agent serves a tree '%s' in %s", tree, dir);
		rc = -ESRCH;
	}
	nodes_free(&view);
	return rc;
}

/* True when the user wants to leave. */
static bool wait_signal(int signals, uint64_t until_ns)
{
	struct pollfd source = {.fd = signals, .events = POLLIN};
	uint64_t now_ns = clock_now_ns();

	for (; now_ns < until_ns; now_ns = clock_now_ns()) {
		uint64_t left_ms = (until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;

		if (poll(&source, 1, (int)FM_MIN(left_ms, 1000ull)) > 0)
			return true;
	}
	return false;
}

static int nodes_watch(const struct nodes_options *options, const char *dir)
{
	uint64_t next_ns = clock_now_ns();
	sigset_t set;
	int signals, rc;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	do {
		rc = nodes_print(options, dir);
		next_ns = FM_MAX(next_ns + options->interval_ns, clock_now_ns());
	} while (rc == 0 && !wait_signal(signals, next_ns));
	close(signals);
	return rc;
}

static int nodes_read_line(
	struct nodes_options *options, char *dir, size_t size, int argc, char **argv)
{
	struct option_error error = {""};
	struct fm_config config;
	int index = 0;

	if (options_set_defaults(nodes_specs, nodes_specs_count, options, &error) < 0 ||
		options_read_flags(
			nodes_specs, nodes_specs_count, options, argc, argv, &index, &error) < 0 ||
		config_load(&config, &error) < 0) {
		complain("%s", error.text);
		return -EINVAL;
	}
	if (index < argc) {
		complain("nodes takes no argument: '%s'", argv[index]);
		return -EINVAL;
	}
	if (options->once && options->watch) {
		complain("nodes: --once or --watch, not both");
		return -EINVAL;
	}
	if (places_run_dir(options->dir[0] ? options->dir : config.dir, dir, size) < 0) {
		complain("the run-time directory's name is too long");
		return -EINVAL;
	}
	return 0;
}

int nodes_command(int argc, char **argv)
{
	struct nodes_options options = {.once = false};
	char dir[512];
	int rc;

	if (command_wants_help(argc, argv)) {
		command_print_help("nodes");
		return EXIT_OK;
	}
	if (nodes_read_line(&options, dir, sizeof(dir), argc, argv) < 0)
		return EXIT_USAGE;
	rc = options.watch ? nodes_watch(&options, dir) : nodes_print(&options, dir);
	if (rc < 0 && rc != -ESRCH)
		complain("nodes: %s: %s", dir, strerror(-rc));
	return rc < 0 ? EXIT_FAILED : EXIT_OK;
}
