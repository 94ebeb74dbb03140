/*
 * tests/soak/soak.c: farmem-soak: options, the loop, the end, the summary. See soak.h. People call
 * it by the script beside it, which finds the build.
 *
 * Exit 0; 1 when something did not hold, with the scratch directory kept; 77 with "SKIP: reason"; 2
 * for wrong usage.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define FAR_NS (60 * NS_PER_S)
#define PROGRAMS_NS (150 * NS_PER_S)

extern char **environ;

struct soak soak = {.options = {.minutes = 5, .seed = 1}};

uint64_t soak_random(void)
{
	uint64_t x = soak.random += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

uint64_t soak_below(uint64_t below)
{
	return soak_random() % below;
}

static void soak_print(const char *mark, const char *format, va_list arguments)
{
	char text[512];

	vsnprintf(text, sizeof text, format, arguments);
	printf("%8.1f s  %s%s\n", (double)(clock_now_ns() - soak.started_ns) / 1e9, mark, text);
	fflush(stdout);
}

void soak_say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	soak_print("", format, arguments);
	va_end(arguments);
}

void soak_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	soak_print("FAIL: ", format, arguments);
	va_end(arguments);
	soak.failed = true;
}

void soak_tick(void)
{
	uint64_t now_ns = clock_now_ns();

	nodes_tick(now_ns);
	programs_tick(now_ns);
	chaos_undo_tick(now_ns);
	check_tick(now_ns);
	poll(NULL, 0, SOAK_TICK_MS);
}

/* ---- options ---- */

static _Noreturn void soak_usage(const char *wrong)
{
	if (wrong)
		fprintf(stderr, "soak: %s\n", wrong);
	fprintf(wrong ? stderr : stdout,
		"usage: soak [--minutes N] [--seed S] [--transport tcp|shm] [--netns] [--keep] "
		"[--beyond]\n"
		"  --minutes N    of chaos, 0.5 or 600 (default 5)\n"
		"  --seed S       decides what is struck, and in which order (default 1)\n"
		"  --transport    tcp: nodes of our own (default); shm: nodes embedded by the "
		"agents\n"
		"  --netns        each node in a network namespace, and cut off now and then\n"
		"                 (tcp, root)\n"
		"  --keep         keeps the scratch directory, with all logs\n"
		"  --beyond       kills m + 1 nodes at once: the soak must fail, or it sees "
		"nothing\n");
	exit(wrong ? 2 : 0);
}

static void soak_read_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
		char *end = NULL;

		if (strcmp(word, "--help") == 0)
			soak_usage(NULL);
		if (strcmp(word, "--netns") == 0) {
			soak.options.netns = true;
		} else if (strcmp(word, "--beyond") == 0) {
			soak.options.beyond = true;
		} else if (strcmp(word, "--keep") == 0) {
			soak.options.keep = true;
		} else if (value && strcmp(word, "--minutes") == 0) {
			soak.options.minutes = strtod(argv[++i], &end);
			if (*end || soak.options.minutes < 0.1 || soak.options.minutes > 1e5)
				soak_usage("--minutes is a number from 0.1 on");
		} else if (value && strcmp(word, "--seed") == 0) {
			soak.options.seed = strtoull(argv[++i], &end, 0);
			if (*end)
				soak_usage("--seed is a number");
		} else if (value && strcmp(word, "--transport") == 0) {
			soak.options.shm = strcmp(argv[++i], "shm") == 0;
			if (!soak.options.shm && strcmp(value, "tcp") != 0)
				soak_usage("--transport is tcp or shm");
		} else {
			soak_usage(word);
		}
	}
	if (soak.options.netns && soak.options.shm)
		soak_usage("--netns goes with tcp only");
}

/* ---- the beginning ---- */

static void soak_skip(const char *reason)
{
	printf("SKIP: %s\n", reason);
	net_end();
	exit(77);
}

static void soak_find_places(void)
{
	char self[256] = "";
	char *slash;

	if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
		exit(2);
	for (unsigned i = 0; i < 2; i++) /* BUILD/tests/farmem-soak */
		if ((slash = strrchr(self, '/')))
			*slash = '\0';
	snprintf(soak.build, sizeof soak.build, "%s", self);
	snprintf(soak.source, sizeof soak.source, "%s", SOAK_SOURCE_DIR);
	snprintf(soak.scratch, sizeof soak.scratch, "/tmp/farmem-soak-XXXXXX");
	if (!mkdtemp(soak.scratch)) {
		perror(soak.scratch);
		exit(1);
	}
}

/* The user's own settings do not take part. */
static void soak_clear_environment(void)
{
	for (char **at = environ; *at;) {
		char name[128];
		size_t length = strcspn(*at, "=");

		if (strncmp(*at, "FARMEM_", 7) != 0 || length >= sizeof name) {
			at++;
			continue;
		}
		memcpy(name, *at, length);
		name[length] = '\0';
		unsetenv(name);
	}
	setenv("LC_ALL", "C", 1);
}

static void soak_plan_places(void)
{
	soak.places_count = soak.options.shm ? 2 * SOAK_EMBEDDED : SOAK_NODES;
	for (unsigned i = 0; i < soak.places_count; i++)
		soak.places[i] = (struct place){.index = i,
			.owner = soak.options.shm ? (int)(i / SOAK_EMBEDDED) : -1,
			.ready_fd = -1};
}

static volatile sig_atomic_t interrupted;

static void soak_interrupt(int number)
{
	interrupted = number;
}

static void soak_begin(void)
{
	struct sigaction action = {.sa_handler = soak_interrupt};
	const char *reason = NULL;
	long uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0 && access("/dev/userfaultfd", R_OK | W_OK) != 0)
		soak_skip("this machine has no userfaultfd for us");
	if (uffd >= 0)
		close((int)uffd);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	soak_plan_places();
	if (soak.options.netns && !net_begin(&reason))
		soak_skip(reason);
	soak_clear_environment();
	soak_find_places();
	soak.random = soak.options.seed;
	soak.started_ns = clock_now_ns();
	printf("soak: %.1f min, seed %llu, %s%s, %ld CPUs, scratch %s\n", soak.options.minutes,
		(unsigned long long)soak.options.seed, soak.options.shm ? "shm" : "tcp",
		soak.options.netns ? ", namespaces" : "", sysconf(_SC_NPROCESSORS_ONLN),
		soak.scratch);
	fflush(stdout);
}

/* ---- the end ---- */

static void kill_each(void *context, pid_t pid, const char *name)
{
	(void)context;
	if (strncmp(name, "farmem-soak", 11) != 0)
		kill(pid, SIGKILL);
}

static void soak_clean_up(void)
{
	for (unsigned i = 0; i < soak.programs_count; i++)
		if (soak.programs[i].pid > 0)
			kill(soak.programs[i].pid, SIGKILL);
	for (unsigned i = 0; i < soak.places_count; i++)
		if (soak.places[i].pid > 0)
			kill(soak.places[i].pid, SIGKILL);
	process_each(soak.scratch, kill_each, NULL);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	net_end();
	if ((soak.failed && !soak.options.beyond) || soak.options.keep) {
		printf("kept: %s\n", soak.scratch);
	} else {
		const char *const words[] = {"rm", "-rf", soak.scratch, NULL};
		struct start start = {.words = words, .keep_fd = -1};

		process_run(&start, FAR_NS);
	}
}

static void soak_summarize(void)
{
	uint64_t degraded = 0, swap_in = 0, repaired = 0, drained = 0, healed = 0;
	unsigned runs = 0, starts = 0;

	for (unsigned i = 0; i < soak.programs_count; i++) {
		const struct program *program = &soak.programs[i];

		runs += program->runs;
		degraded += program->degraded;
		swap_in += program->swap_in;
		repaired += program->repaired;
		drained += program->drained;
		healed += program->healed;
	}
	for (unsigned i = 0; i < soak.places_count; i++)
		starts += soak.places[i].starts;
	if (!soak.failed && swap_in < 10000)
		soak_fail("only %llu pages came back from far memory: nothing was tested",
			(unsigned long long)swap_in);
	printf("memory: %u lives of agents and nodes; worst slope of those over %llu s: %.0f KiB a "
	       "minute%s%s (bound %.0f); worst growth of shorter ones %.0f KiB (bound %.0f)\n",
		soak.lives, (unsigned long long)(SOAK_LONG_NS / NS_PER_S), soak.slope_worst,
		soak.slope_who[0] ? " of " : "", soak.slope_who, SOAK_SLOPE_MAX_KIB_PER_MIN,
		soak.growth_worst, SOAK_GROWTH_MAX_KIB);
	printf("soak: %s: seed=%llu seconds=%.0f strikes=%u program_runs=%u node_starts=%u "
	       "swapped_in_pages=%llu degraded_reads=%llu repaired_columns=%llu "
	       "drained_columns=%llu flips=%u healed_flips=%u healed_spansets=%llu "
	       "slot_audits=%u wrong_bytes=%s\n",
		soak.failed ? "FAILED" : "ok", (unsigned long long)soak.options.seed,
		(double)(clock_now_ns() - soak.started_ns) / 1e9, soak.strikes, runs, starts,
		(unsigned long long)swap_in, (unsigned long long)degraded,
		(unsigned long long)repaired, (unsigned long long)drained, soak.flips_done,
		soak.flips_healed, (unsigned long long)healed, soak.audits,
		soak.failed ? "?" : "0");
}

/* ---- the run ---- */

static bool soak_go_far(void)
{
	uint64_t until_ns = clock_now_ns() + FAR_NS;

	while (!programs_far() && !soak.failed && !interrupted) {
		if (clock_now_ns() > until_ns)
			soak_fail("the programs do not go far");
		soak_tick();
	}
	return !soak.failed && !interrupted;
}

static void soak_run(void)
{
	nodes_begin();
	programs_begin();
	if (!soak_go_far())
		return;
	soak_say("all programs are far");
	chaos_begin();
	soak.chaos_end_ns = clock_now_ns() + (uint64_t)(soak.options.minutes * 60e9);
	while (clock_now_ns() < soak.chaos_end_ns && !soak.failed && !interrupted) {
		chaos_tick(clock_now_ns());
		soak_tick();
	}
	chaos_end();
	if (soak.failed || interrupted)
		return;
	soak.over = true;
	check_whole();
	programs_wait(PROGRAMS_NS);
	check_whole();
	check_slots(true);
	check_slots(false);
	programs_end();
	check_leases();
	check_memory_end();
	nodes_end();
	check_left_behind();
}

int main(int argc, char **argv)
{
	soak_read_options(argc, argv);
	soak_begin();
	soak_run();
	if (interrupted)
		soak_fail("interrupted by signal %d", (int)interrupted);
	soak_summarize();
	soak_clean_up();
	return soak.failed ? 1 : 0;
}
