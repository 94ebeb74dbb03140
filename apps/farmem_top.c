/*
 * apps/farmem_top.c: `farmem top`: the loop around gathering and rendering; terminal, keys,
 * signals.
 *
 * On a terminal: redraws in the alternate screen, clipped to its height; q, escape, ctrl-C or
 * SIGTERM leave, and the terminal is put back as it was. Not on a terminal: plain blocks, one per
 * interval. --json prints one array per sample, on one line.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_places.h"
#include "apps/farmem_top.h"
#include "base/clock.h"
#include "base/config.h"

#define ONCE_INTERVAL_NS (500 * NS_PER_MS) /* between the two samples of --once */
#define INTERVAL_NS_MIN (10 * NS_PER_MS)

struct top_options {
	bool once, json;
	uint64_t interval_ns;
	char dir[sizeof(((struct fm_config *)0)->dir)];
};

const struct option_spec top_specs[] = {
	{.name = "once",
		.type = OPTION_BOOL,
		.offset = offsetof(struct top_options, once),
		.help = "print once and leave",
		.flag_only = true},
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct top_options, json),
		.help = "print what the agents say: a JSON array of processes per line",
		.flag_only = true},
	{.name = "interval",
		.letter = 'i',
		.type = OPTION_DURATION,
		.offset = offsetof(struct top_options, interval_ns),
		.min = INTERVAL_NS_MIN,
		.value = "1s",
		.argument = "TIME",
		.help = "time between two samples",
		.flag_only = true},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct top_options, dir),
		.size = sizeof(((struct top_options *)0)->dir),
		.argument = "PATH",
		.help = "run-time directory in which to look for agents; without it that of the\n"
			"configuration, as for run",
		.flag_only = true},
};
const unsigned top_specs_count = FM_ARRAY_COUNT(top_specs);

struct top {
	struct top_options options;
	char dir[512];
	int64_t pid; /* 0: all */
	int signals; /* signalfd */
	bool screen; /* draws on a terminal */
	struct termios saved;
	struct top_sample before, now;
};

/* --- terminal ----------------------------------------------------------------------------------
 */

static void screen_open(struct top *top)
{
	struct termios raw;

	top->screen = !top->options.once && !top->options.json && isatty(STDOUT_FILENO) &&
		      isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &top->saved) == 0;
	if (!top->screen)
		return;
	raw = top->saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	printf("\033[?1049h\033[?25l"); /* alternate screen, no cursor */
}

static void screen_close(const struct top *top)
{
	if (!top->screen)
		return;
	printf("\033[?25h\033[?1049l");
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &top->saved);
}

/* As many lines as fit, each cleared to its end, then the rest of the screen cleared. */
static void screen_draw(char *text)
{
	struct winsize size = {.ws_row = 24};
	unsigned row = 0;

	ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	printf("\033[H\033[?7l"); /* home; long lines are cut, not wrapped */
	for (char *line = text, *end; *line && row + 1 < size.ws_row; line = end + 1, row++) {
		end = line + strcspn(line, "\n");
		printf("%.*s\033[K\n", (int)(end - line), line);
		if (*end == '\0')
			break;
	}
	printf("\033[J\033[2mq leaves\033[0m\033[?7h");
	fflush(stdout);
}

/* --- loop --------------------------------------------------------------------------------------
 */

/* True when the user wants to leave; false when the time is over. */
static bool wait_until(const struct top *top, uint64_t until_ns)
{
	struct pollfd sources[] = {{.fd = top->signals, .events = POLLIN},
		{.fd = top->screen ? STDIN_FILENO : -1, .events = POLLIN}};
	uint64_t now_ns = clock_now_ns();
	char key;

	for (; now_ns < until_ns; now_ns = clock_now_ns()) {
		uint64_t left_ms = (until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;

		if (poll(sources, 2, (int)FM_MIN(left_ms, 1000ull)) <= 0)
			continue;
		if (sources[0].revents)
			return true;
		if (sources[1].revents &&
			(read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 27))
			return true;
	}
	return false;
}

static int sample_next(struct top *top)
{
	top_sample_free(&top->before);
	top->before = top->now;
	top->now = (struct top_sample){0};
	return top_gather(top->dir, top->pid, &top->now);
}

static int print_json(const struct top *top)
{
	char *text = cJSON_PrintUnformatted(top->now.processes);

	if (!text)
		return -ENOMEM;
	printf("%s\n", text);
	free(text);
	return fflush(stdout) == 0 ? 0 : -errno;
}

static int print_sample(const struct top *top)
{
	const struct top_sample *before = top->before.processes ? &top->before : NULL;
	char *text = NULL;
	size_t length;
	FILE *memory;

	if (top->options.json)
		return print_json(top);
	memory = open_memstream(&text, &length);
	if (!memory)
		return -ENOMEM;
	top_render(memory, &top->now, before, isatty(STDOUT_FILENO));
	fclose(memory);
	if (top->screen)
		screen_draw(text);
	else
		printf("%s", text);
	free(text);
	return fflush(stdout) == 0 ? 0 : -errno;
}

static int top_once(struct top *top)
{
	int rc = sample_next(top);

	if (rc < 0 || top->options.json)
		return rc < 0 ? rc : print_sample(top);
	if (wait_until(top, clock_now_ns() + ONCE_INTERVAL_NS))
		return 0;
	rc = sample_next(top);
	return rc < 0 ? rc : print_sample(top);
}

static int top_loop(struct top *top)
{
	uint64_t next_ns = clock_now_ns();
	int rc;

	do {
		rc = sample_next(top);
		if (rc == 0)
			rc = print_sample(top);
		next_ns = FM_MAX(next_ns + top->options.interval_ns, clock_now_ns());
	} while (rc == 0 && !wait_until(top, next_ns));
	return rc;
}

/* --- start -------------------------------------------------------------------------------------
 */

static int read_pid(const char *word, int64_t *pid)
{
	uint64_t value;

	if (parse_count(word, &value) < 0 || value == 0 || value > INT32_MAX) {
		complain("top: '%s' is not a process id", word);
		return -EINVAL;
	}
	*pid = (int64_t)value;
	return 0;
}

static int top_read(struct top *top, int argc, char **argv)
{
	struct option_error error = {""};
	struct fm_config config;
	int index = 0;

	if (options_set_defaults(top_specs, top_specs_count, &top->options, &error) < 0 ||
		options_read_flags(top_specs, top_specs_count, &top->options, argc, argv, &index,
			&error) < 0 ||
		config_load(&config, &error) < 0) {
		complain("%s", error.text);
		return -EINVAL;
	}
	if (index < argc && read_pid(argv[index++], &top->pid) < 0)
		return -EINVAL;
	if (index < argc) {
		complain("top takes one process id at most: '%s'", argv[index]);
		return -EINVAL;
	}
	if (places_run_dir(top->options.dir[0] ? top->options.dir : config.dir, top->dir,
		    sizeof(top->dir)) < 0) {
		complain("the run-time directory's name is too long");
		return -EINVAL;
	}
	return 0;
}

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

int top_command(int argc, char **argv)
{
	static struct top top;
	int rc;

	if (command_wants_help(argc, argv)) {
		command_print_help("top");
		return EXIT_OK;
	}
	if (top_read(&top, argc, argv) < 0)
		return EXIT_USAGE;
	top.signals = signals_open();
	screen_open(&top);
	rc = top.options.once ? top_once(&top) : top_loop(&top);
	screen_close(&top);
	if (rc < 0)
		complain("top: %s: %s", top.dir, strerror(-rc));
	else if (top.pid && top.options.once && cJSON_GetArraySize(top.now.processes) == 0) {
		complain("top: no process %lld with far memory in %s", (long long)top.pid, top.dir);
		rc = -ESRCH;
	}
	top_sample_free(&top.before);
	top_sample_free(&top.now);
	return rc < 0 ? EXIT_FAILED : EXIT_OK;
}
