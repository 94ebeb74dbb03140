/*
 * apps/agent_main.c: farmem-agent, the companion process of a tree of programs.
 *
 * Started by the runtime inside a program (farmem/mailbox_start.c), rarely by hand. It has no
 * terminal: what it has to say goes to <dir>/agent.log and, when people should know, to the
 * programs (MAILBOX_NOTICE). On --ready-fd it writes one line: "ready", or why it cannot start.
 * Exit status: 0; 1 operating error; 2 the user's mistake.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault_point.h"
#include "base/log.h"
#include "base/options.h"
#include "farmem/agent/agent_run.h"

#define EXIT_USER 2

struct main_options {
	char dir[PATH_MAX];
	uint64_t ready_fd; /* 0: none */
	uint32_t log_level;
};

static const char *const level_choices[] = {"error", "warn", "info", "debug", NULL};

static const struct option_spec specs[] = {
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct main_options, dir),
		.size = PATH_MAX,
		.argument = "PATH",
		.help = "run-time directory of the tree of programs to serve"},
	{.name = "ready-fd",
		.type = OPTION_COUNT,
		.offset = offsetof(struct main_options, ready_fd),
		.min = 3,
		.max = 1 << 20,
		.argument = "N",
		.help = "write one line there when connections are accepted"},
	{.name = "log-level",
		.type = OPTION_CHOICE,
		.offset = offsetof(struct main_options, log_level),
		.choices = level_choices,
		.value = "info",
		.argument = "LEVEL",
		.help = "of <dir>/agent.log: error, warn, info or debug"},
};

/* One line to whoever started us, and to stderr. */
static void say(const struct main_options *options, const char *text)
{
	dprintf(STDERR_FILENO, "farmem-agent: %s\n", text);
	if (options->ready_fd != 0)
		dprintf((int)options->ready_fd, "%s\n", text);
}

static void print_help(void)
{
	dprintf(STDOUT_FILENO, "Usage: farmem-agent --dir PATH [flags]\n"
			       "Serves the programs of one tree; farmem starts it by itself.\n\n");
	options_print_help(specs, FM_ARRAY_COUNT(specs), STDOUT_FILENO);
}

static bool asked_for_words(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			print_help();
		else if (strcmp(argv[i], "--version") == 0)
			dprintf(STDOUT_FILENO, "farmem-agent " FM_VERSION "\n");
		else
			continue;
		return true;
	}
	return false;
}

static int read_options(
	struct main_options *options, int argc, char **argv, char *text, size_t size)
{
	struct option_error error = {""};
	char given[PATH_MAX];
	int index = 1;
	if (options_set_defaults(specs, FM_ARRAY_COUNT(specs), options, &error) != 0 ||
		options_read_flags(
			specs, FM_ARRAY_COUNT(specs), options, argc, argv, &index, &error) != 0)
		snprintf(text, size, "%s", error.text);
	else if (index < argc)
		snprintf(text, size, "%s: not a flag; see --help", argv[index]);
	else if (options->dir[0] == '\0')
		snprintf(text, size, "--dir PATH is needed");
	else if (snprintf(given, sizeof given, "%s", options->dir) < 0 ||
		 realpath(given, options->dir) == NULL)
		snprintf(text, size, "--dir %.200s: %s", given, strerror(errno));
	else
		return 0;
	return -EINVAL;
}

static int own_directory(char path[PATH_MAX])
{
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
	if (length <= 0)
		return -ENOENT;
	path[length] = '\0';
	char *slash = strrchr(path, '/');
	if (slash == NULL)
		return -ENOENT;
	*slash = '\0';
	return 0;
}

static void say_ready(void *context)
{
	const struct main_options *options = context;
	if (options->ready_fd == 0)
		return;
	dprintf((int)options->ready_fd, "ready\n");
	close((int)options->ready_fd);
}

static int open_log(const struct main_options *options, char *text, size_t size)
{
	char path[PATH_MAX + 16];
	snprintf(path, sizeof path, "%s/agent.log", options->dir);
	log_set_program("farmem-agent");
	log_set_level((enum log_level)options->log_level);
	int error = log_open(path);
	if (error != 0)
		snprintf(text, size, "%.200s: %s", path, strerror(-error));
	return error;
}

int main(int argc, char **argv)
{
	static struct main_options options;
	char text[512], self[PATH_MAX];
	if (asked_for_words(argc, argv))
		return 0;
	umask(077);
	const char *faults = getenv("FARMEM_FAULTS");
	if (read_options(&options, argc, argv, text, sizeof text) != 0 ||
		(faults != NULL && fault_arm_from_text(faults) != 0 &&
			snprintf(text, sizeof text, "FARMEM_FAULTS: name=N[+]") > 0)) {
		say(&options, text);
		return EXIT_USER;
	}
	int error = own_directory(self);
	if (error != 0)
		snprintf(text, sizeof text, "/proc/self/exe: %s", strerror(-error));
	else
		error = open_log(&options, text, sizeof text);
	if (error == 0 && chdir("/") == 0) {
		struct agent_run_options run = {options.dir, self, say_ready, &options};
		error = agent_run(&run);
		snprintf(text, sizeof text, "%.200s: %s", options.dir,
			error == -EADDRINUSE ? "another agent serves it" : strerror(-error));
	}
	if (error != 0)
		say(&options, text);
	return error != 0;
}
