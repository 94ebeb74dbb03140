/*
 * apps/farmem_drain.c: `farmem drain NODE`: tells the agents that know the node to move everything
 * off it, and follows them until nothing of their programs is left there.
 *
 *     DRAIN to each agent -> STATS every second -> left columns 0: done
 *                                               -> the node died, or somebody cancelled, or nothing
 *                                                  moves any more: why, and exit 1
 *
 * The drain is the agents' work and goes on without us: ctrl-C ends only the watching.
 *
 * Exit: 0 done, 1 it cannot be done, 2 the command line, 130 ctrl-C.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "apps/farmem_agents.h"
#include "apps/farmem_cmd.h"
#include "apps/farmem_drain.h"
#include "apps/farmem_places.h"
#include "base/clock.h"
#include "base/config.h"

#define EXIT_INTERRUPTED 130
#define LOOK_NS NS_PER_S                /* between two questions */
#define LOOK_FIRST_NS (100 * NS_PER_MS) /* small drains are over at once */

struct drain_options {
	bool cancel, no_wait, json;
	char dir[sizeof(((struct fm_config *)0)->dir)];
	char tree[128];
};

const struct option_spec drain_specs[] = {
	{.name = "cancel",
		.type = OPTION_BOOL,
		.offset = offsetof(struct drain_options, cancel),
		.help = "end a drain: what was moved stays where it is now",
		.flag_only = true},
	{.name = "no-wait",
		.type = OPTION_BOOL,
		.offset = offsetof(struct drain_options, no_wait),
		.help = "begin, and leave at once: `farmem nodes` shows how it goes",
		.flag_only = true},
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct drain_options, json),
		.help = "print a JSON object for each look, one on a line",
		.flag_only = true},
	{.name = "tree",
		.type = OPTION_STRING,
		.offset = offsetof(struct drain_options, tree),
		.size = sizeof(((struct drain_options *)0)->tree),
		.argument = "NAME",
		.help = "tell the agent of this tree only",
		.flag_only = true},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct drain_options, dir),
		.size = sizeof(((struct drain_options *)0)->dir),
		.argument = "PATH",
		.help = "run-time directory in which to look for agents; without it that of the\n"
			"configuration, as for run",
		.flag_only = true},
};
const unsigned drain_specs_count = FM_ARRAY_COUNT(drain_specs);

struct command_line {
	struct drain_options options;
	const char *node, *tree;
	char dir[512];
};

/* --- telling ------------------------------------------------------------------------------------
 */

struct order {
	struct mailbox_message message;
	unsigned told, already; /* agents that know the node: now, and before */
	int64_t error;          /* of one that could not be told */
};

static int tell_agent(void *context, const char *tree, int fd)
{
	struct order *order = context;
	int received;
	int64_t value = agents_order(fd, &order->message, &received);

	if (received >= 0)
		close(received);
	if (value == 0)
		order->told++;
	else if (value == -EALREADY)
		order->already++;
	else if (value != -ENOENT)
		order->error = value;
	(void)tree;
	return value == 0 || value == -EALREADY || value == -ENOENT ? 0 : -EPROTO;
}

/* 0, or an exit status after a line that says why. */
static int tell_all(const struct command_line *line, struct order *order)
{
	struct agents_count count = {0, 0};
	int rc;

	order->message = (struct mailbox_message){
		.version = MAILBOX_VERSION, .kind = MAILBOX_DRAIN, .value = !line->options.cancel};
	snprintf(order->message.text, sizeof(order->message.text), "%s", line->node);
	rc = agents_visit(line->dir, line->tree, tell_agent, order, &count);
	if (rc < 0) {
		complain("drain: %s: %s", line->dir, strerror(-rc));
		return EXIT_FAILED;
	}
	if (count.silent > 0)
		complain("drain: %u agents gave no answer%s%s", count.silent,
			order->error ? ": " : "", order->error ? strerror((int)-order->error) : "");
	if (order->told + order->already > 0)
		return EXIT_OK;
	if (count.answered == 0 && count.silent == 0)
		complain("drain: no program uses far memory, so nothing is on any node");
	else if (count.answered > 0)
		complain(
			"drain: no agent knows a node '%s': `farmem nodes` lists them", line->node);
	return EXIT_FAILED;
}

/* --- following ----------------------------------------------------------------------------------
 */

static int signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* True when a signal came. */
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

static void say_progress(const struct command_line *line, const struct drain *drain, bool last)
{
	bool terminal = isatty(STDOUT_FILENO);
	char text[256];

	if (line->options.json) {
		drain_print_json(stdout, drain);
	} else {
		drain_describe(drain, text, sizeof(text));
		printf("%s%s%s", terminal ? "\r" : "", text, terminal ? "\033[K" : "\n");
		if (terminal && last)
			fputc('\n', stdout);
	}
	fflush(stdout);
}

static int say_end(const struct command_line *line, const struct drain *drain)
{
	if (drain->verdict == DRAIN_DONE)
		return EXIT_OK;
	complain("drain: %s", drain->reason);
	if (drain->verdict == DRAIN_STUCK)
		complain("drain: it goes on when there is room; `farmem drain --cancel %s` ends it",
			line->node);
	return EXIT_FAILED;
}

static int follow(const struct command_line *line)
{
	struct drain drain;
	uint64_t next_ns = clock_now_ns() + LOOK_FIRST_NS;
	int signals = signals_open(), rc;

	drain_begin(&drain, line->node);
	for (;;) {
		struct nodes_view view;

		if (wait_signal(signals, next_ns)) {
			printf("%s", isatty(STDOUT_FILENO) && !line->options.json ? "\n" : "");
			complain("drain: the drain of %s goes on: `farmem nodes` shows it, "
				 "`farmem drain --cancel %s` ends it",
				line->node, line->node);
			rc = EXIT_INTERRUPTED;
			break;
		}
		rc = nodes_gather(line->dir, line->tree, &view);
		if (rc < 0) {
			complain("drain: %s: %s", line->dir, strerror(-rc));
			rc = EXIT_FAILED;
			break;
		}
		drain_look(&drain, &view, clock_now_ns());
		nodes_free(&view);
		say_progress(line, &drain, drain.verdict != DRAIN_UNDERWAY);
		if (drain.verdict != DRAIN_UNDERWAY) {
			rc = say_end(line, &drain);
			break;
		}
		next_ns = clock_now_ns() + LOOK_NS;
	}
	close(signals);
	return rc;
}

/* --- the command --------------------------------------------------------------------------------
 */

/* A node's name may stand between the flags. */
static int drain_read_line(struct command_line *line, int argc, char **argv)
{
	struct option_error error = {""};
	struct fm_config config;
	int index = 0, rc;

	rc = options_set_defaults(drain_specs, drain_specs_count, &line->options, &error);
	if (rc == 0)
		rc = options_read_flags(
			drain_specs, drain_specs_count, &line->options, argc, argv, &index, &error);
	if (rc == 0 && index < argc) {
		line->node = argv[index++];
		rc = options_read_flags(
			drain_specs, drain_specs_count, &line->options, argc, argv, &index, &error);
	}
	if (rc == 0)
		rc = config_load(&config, &error);
	if (rc < 0) {
		complain("%s", error.text);
		return rc;
	}
	if (!line->node || index < argc) {
		complain(line->node ? "drain takes one node: '%s'"
				    : "drain wants a node: `farmem nodes` lists them",
			line->node ? argv[index] : "");
		return -EINVAL;
	}
	line->tree = line->options.tree[0] ? line->options.tree : NULL;
	if (places_run_dir(line->options.dir[0] ? line->options.dir : config.dir, line->dir,
		    sizeof(line->dir)) < 0) {
		complain("the run-time directory's name is too long");
		return -EINVAL;
	}
	return 0;
}

int drain_command(int argc, char **argv)
{
	static struct command_line line;
	static struct order order;
	int rc;

	if (command_wants_help(argc, argv)) {
		command_print_help("drain");
		return EXIT_OK;
	}
	if (drain_read_line(&line, argc, argv) < 0)
		return EXIT_USAGE;
	rc = tell_all(&line, &order);
	if (rc != EXIT_OK)
		return rc;
	if (line.options.cancel) {
		if (!line.options.json)
			printf("%s: %s\n", line.node,
				order.told ? "the drain is cancelled" : "was not being drained");
		return EXIT_OK;
	}
	if (line.options.no_wait) {
		if (!line.options.json)
			printf("%s: draining; `farmem nodes` shows how it goes\n", line.node);
		return EXIT_OK;
	}
	return follow(&line);
}
