/*
 * bench/paper_run.c: runs one program of bench/paper far and looks at it from outside: a line for
 * each of its phases, with what the program said, what farmem's counters said, and what CPU time
 * program, agent and nodes took.
 *
 *     paper_run --dir DIR [--timeout TIME] [--far FILE] -- farmem run --dir DIR ... -- PROGRAM...
 *
 * Called by the script bench/paper. Lines:
 *     begin=NAME pid=PID                      as it begins (a script's clock)
 *     phase=NAME KEY=VALUE...                 at its end; all times in s or ns, all sizes in bytes
 * Gauges (near, far, retained, dead, slots...) are means over the phase, NAME_max their maximum,
 * seen every 20 ms; counters are what was added; fault_ and fetch_ are quantiles of what was added.
 * Without a catalog (the program's data fitted) gauges and counters are 0.
 *
 * --far FILE is made when the first page has come back from far: by then all of farmem is at work.
 *
 * Companions (agent, nodes) are found by DIR in their command lines and ended at the end, before
 * the directory goes: the next run finds a quiet machine. Exit: the program's, 124 after the
 * timeout.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hist.h"
#include "bench/bench.h"
#include "farmem/stats_table.h"
#include "tests/soak/watched.h"

#define LOOK_MS 20
#define LINE_MAX_BYTES 1024
#define FIELDS_MAX 128
#define EXIT_TIMEOUT 124
#define COMPANIONS_END_MS 5000

struct run_options {
	struct bench_options common;
	char dir[256], far[256];
	uint64_t timeout_ns;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct run_options, dir),
		.size = 256,
		.argument = "PATH",
		.help = "the run's own --dir: its companions are known by it",
		.flag_only = true},
	{.name = "far",
		.type = OPTION_STRING,
		.offset = offsetof(struct run_options, far),
		.size = 256,
		.argument = "FILE",
		.help = "is made when a page has come back from far",
		.flag_only = true},
	{.name = "timeout",
		.type = OPTION_DURATION,
		.offset = offsetof(struct run_options, timeout_ns),
		.value = "10min",
		.argument = "TIME",
		.help = "then the run is ended",
		.flag_only = true},
};
static const struct bench_program program = {"paper_run",
	"Runs a program of bench/paper and prints a line per phase.", specs, FM_ARRAY_COUNT(specs)};

/* Who is asked for what it costs. */
enum who { PROGRAM, AGENT, NODES, WHO_COUNT };
static const char *const who_names[WHO_COUNT] = {"program", "agent", "nodes"};

struct snapshot {
	uint64_t numbers[FIELDS_MAX];
	struct hist fault_ns, fetch_ns;
	uint64_t cpu_ns[WHO_COUNT];
};

static struct run_options options;
static struct {
	pid_t pid;
	bool watching, in_phase, went_far;
	struct watched watched;
	struct snapshot before, after;
	uint64_t sums[FIELDS_MAX], most[FIELDS_MAX], looks;
	char line[LINE_MAX_BYTES];
	size_t line_length;
} run;

/* Gauges stand first in the table, in catalog.h's order; these are the first that are none. */
static bool is_gauge(const char *name)
{
	static const char *const gauges[] = {"budget_bytes", "near_bytes", "staging_bytes",
		"far_bytes", "retained_bytes", "dead_bytes", "fresh_bytes", "metadata_bytes",
		"slots_used_bytes", "slots_quarantined_bytes", "far_capacity_bytes", "children",
		"pinned_bytes"};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(gauges); i++)
		if (strcmp(gauges[i], name) == 0)
			return true;
	return false;
}

/* ---- processes ---- */

/* User and system time of a whole process. */
static uint64_t cpu_ns_of(pid_t pid)
{
	char path[64], text[1024];
	unsigned long long user = 0, system = 0;
	const char *behind;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[FM_MAX(length, 0)] = '\0';
	behind = strrchr(text, ')');
	if (behind == NULL ||
		sscanf(behind, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
			&system) != 2)
		return 0;
	return (user + system) * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* AGENT or NODES when the process is one of this run, else WHO_COUNT. */
static enum who companion_of(pid_t pid)
{
	char path[64], text[2048];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return WHO_COUNT;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return WHO_COUNT;
	text[length] = '\0';
	if (memmem(text, (size_t)length, options.dir, strlen(options.dir)) == NULL)
		return WHO_COUNT;
	return strstr(text, "farmem-agent")     ? AGENT
	       : strstr(text, "farmem-memnode") ? NODES
						: WHO_COUNT;
}

/* each(pid, who) for every companion; returns how many. */
static unsigned companions(void (*each)(pid_t pid, enum who who))
{
	DIR *processes = opendir("/proc");
	const struct dirent *entry;
	unsigned count = 0;

	while (processes && (entry = readdir(processes))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		enum who who = pid > 0 ? companion_of(pid) : WHO_COUNT;

		if (who == WHO_COUNT)
			continue;
		count++;
		each(pid, who);
	}
	if (processes)
		closedir(processes);
	return count;
}

static struct snapshot *cpu_into;
static void cpu_add(pid_t pid, enum who who)
{
	cpu_into->cpu_ns[who] += cpu_ns_of(pid);
}

static void companion_kill(pid_t pid, enum who who)
{
	(void)who;
	kill(pid, SIGKILL);
}

/* ---- looking ---- */

static void watch(void)
{
	if (!run.watching)
		run.watching = watched_open(&run.watched, run.pid) == 0;
}

static void snapshot_take(struct snapshot *snapshot)
{
	memset(snapshot, 0, sizeof(*snapshot));
	watch();
	if (run.watching) {
		const struct catalog_stats *stats = run.watched.catalog.stats;

		for (unsigned i = 0; i < stats_numbers_count && i < FIELDS_MAX; i++)
			snapshot->numbers[i] = stats_number(stats, i);
		hist_merge(&snapshot->fault_ns, &stats->fault_ns);
		hist_merge(&snapshot->fetch_ns, &stats->fetch_ns);
	}
	cpu_into = snapshot;
	snapshot->cpu_ns[PROGRAM] = cpu_ns_of(run.pid);
	companions(cpu_add);
}

/* Makes --far's file once a page has come back. */
static void far_look(void)
{
	int fd;

	if (run.went_far || options.far[0] == '\0' || !run.watching ||
		watched_counter(&run.watched, "swap_in_pages") == 0)
		return;
	fd = open(options.far, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	run.went_far = true;
}

static void gauges_look(void)
{
	if (!run.in_phase)
		return;
	watch();
	far_look();
	run.looks++;
	for (unsigned i = 0; run.watching && i < stats_numbers_count && i < FIELDS_MAX; i++) {
		uint64_t now = stats_number(run.watched.catalog.stats, i);

		run.sums[i] += now;
		run.most[i] = FM_MAX(run.most[i], now);
	}
}

/* ---- phases ---- */

/* Smallest value that counts in a bucket of base/hist.h. */
static double bucket_first(unsigned index)
{
	unsigned shift;

	if (index < 2u << HIST_SUB_BITS)
		return index;
	shift = (index >> HIST_SUB_BITS) - 1;
	return (double)((uint64_t)(index - (shift << HIST_SUB_BITS)) << shift);
}

/* Within its bucket (12 % wide) by linear interpolation: limits of 10 % are held against it. */
static double quantile_of(const struct hist *hist, double q)
{
	double wanted = q * (double)hist->count, seen = 0;

	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		double here = (double)hist->buckets[i], first = bucket_first(i);

		if (here > 0 && seen + here >= wanted)
			return first + (bucket_first(i + 1) - first) * (wanted - seen) / here;
		seen += here;
	}
	return 0;
}

static void print_hist(const char *name, const struct hist *before, const struct hist *after)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = {{"p10", 0.1}, {"p25", 0.25}, {"p50", 0.5}, {"p75", 0.75}, {"p90", 0.9},
		{"p95", 0.95}, {"p99", 0.99}, {"p99_9", 0.999}};
	static struct hist added;

	hist_delta(&added, after, before);
	printf(" %s_count=%llu", name, (unsigned long long)added.count);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(quantiles); i++)
		printf(" %s_%s_ns=%.0f", name, quantiles[i].name,
			quantile_of(&added, quantiles[i].q));
}

static void phase_begin(const char *name)
{
	memset(run.sums, 0, sizeof(run.sums));
	memset(run.most, 0, sizeof(run.most));
	run.looks = 0;
	snapshot_take(&run.before);
	run.in_phase = true;
	gauges_look();
	printf("begin=%s pid=%d\n", name, (int)run.pid);
	fflush(stdout);
}

/* `said`: the program's own words after the phase's name. */
static void phase_end(const char *name, const char *said)
{
	gauges_look();
	snapshot_take(&run.after);
	run.in_phase = false;
	printf("phase=%s %s", name, said);
	for (unsigned i = 0; i < stats_numbers_count && i < FIELDS_MAX; i++) {
		const char *key = stats_numbers[i].name;

		if (is_gauge(key))
			printf(" %s=%llu %s_max=%llu", key,
				(unsigned long long)(run.sums[i] / run.looks), key,
				(unsigned long long)run.most[i]);
		else
			printf(" %s=%llu", key,
				(unsigned long long)(run.after.numbers[i] - run.before.numbers[i]));
	}
	print_hist("fault", &run.before.fault_ns, &run.after.fault_ns);
	print_hist("fetch", &run.before.fetch_ns, &run.after.fetch_ns);
	for (unsigned who = 0; who < WHO_COUNT; who++)
		printf(" cpu_%s_s=%.2f", who_names[who],
			(double)(run.after.cpu_ns[who] - run.before.cpu_ns[who]) / 1e9);
	printf("\n");
	fflush(stdout);
}

static void line_take(char *line)
{
	char *name = strchr(line, ' '), *said;

	if (name == NULL)
		return;
	*name++ = '\0';
	said = name + strcspn(name, " ");
	if (*said != '\0')
		*said++ = '\0';
	if (strcmp(line, "begin") == 0)
		phase_begin(name);
	else if (strcmp(line, "end") == 0 && run.in_phase)
		phase_end(name, said);
}

/* What has come from the program; false at its end. */
static bool output_take(int fd)
{
	ssize_t length =
		read(fd, run.line + run.line_length, sizeof(run.line) - 1 - run.line_length);
	char *line = run.line, *end;

	if (length <= 0)
		return length < 0 && errno == EINTR;
	run.line_length += (size_t)length;
	run.line[run.line_length] = '\0';
	while ((end = strchr(line, '\n'))) {
		*end = '\0';
		line_take(line);
		line = end + 1;
	}
	run.line_length = strlen(line);
	memmove(run.line, line, run.line_length + 1);
	if (run.line_length == sizeof(run.line) - 1)
		run.line_length = 0; /* no line of ours is that long */
	return true;
}

/* ---- the run ---- */

static int start(char **command)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		return -errno;
	run.pid = fork();
	if (run.pid < 0)
		return -errno;
	if (run.pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(command[0], command);
		fprintf(stderr, "paper_run: %s: %s\n", command[0], strerror(errno));
		_exit(127);
	}
	close(ends[1]);
	return ends[0];
}

static int finish(bool timed_out)
{
	uint64_t until_ns = clock_now_ns() + COMPANIONS_END_MS * NS_PER_MS;
	int status = 0;

	if (timed_out)
		kill(run.pid, SIGKILL);
	waitpid(run.pid, &status, 0);
	while (companions(companion_kill) > 0 && clock_now_ns() < until_ns)
		poll(NULL, 0, 5);
	if (timed_out)
		fprintf(stderr, "paper_run: time is up\n");
	if (timed_out)
		return EXIT_TIMEOUT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	int first, fd, status = bench_parse(&program, &options, argc, argv, &first);
	uint64_t until_ns, look_ns;
	bool timed_out = false;

	if (status >= 0)
		return status;
	if (first >= argc || options.dir[0] == '\0') {
		fprintf(stderr, "paper_run: --dir DIR -- COMMAND...\n");
		return BENCH_EXIT_USAGE;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing runs on when the script is gone */
	fd = start(argv + first);
	if (fd < 0)
		return bench_fail("cannot start: %s", strerror(-fd));
	look_ns = clock_now_ns();
	until_ns = look_ns + options.timeout_ns;
	for (;;) {
		struct pollfd wanted = {fd, POLLIN, 0};
		uint64_t now_ns = clock_now_ns();

		if (now_ns >= look_ns) {
			gauges_look();
			look_ns = now_ns + LOOK_MS * NS_PER_MS;
		}
		timed_out = now_ns > until_ns;
		if (timed_out)
			break;
		if (poll(&wanted, 1, LOOK_MS) > 0 && !output_take(fd))
			break;
	}
	return finish(timed_out);
}
