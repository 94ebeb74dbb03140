/*
 * tests/soak/soak_program.c: the programs under farmem, at 25 % local, each with an agent of its
 * own.
 *
 *   torture  checks every byte it wrote, for as long as the soak lasts
 *   redis    with farmem-redis-load, whose values tell stale from foreign from torn
 *   batch    (tcp) perl and sqlite in turn, again and again, their output compared with a run
 *            without farmem
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define WORDS_MAX 48
#define NATIVE_NS (60 * NS_PER_S)
#define END_NS (60 * NS_PER_S)
#define WATCH_NS (200 * NS_PER_MS)
#define PERL_KEYS "60000"
#define REDIS_KEYS "60000"

enum { TORTURE, REDIS, BATCH };

static const char *const names[] = {"torture", "redis", "batch"};
static char redis_socket[128], nodes_text[1024];
static uint64_t watch_ns;

/* ---- starting ---- */

/* `farmem run` with its flags in front of the program's words. */
static pid_t far_start(struct program *program, const char *const *command)
{
	char farmem[300];
	const char *words[WORDS_MAX];
	unsigned count = 0;
	struct start start = {
		.words = words, .out = program->out, .log = program->log, .keep_fd = -1};

	snprintf(farmem, sizeof farmem, "%s/farmem", soak.build);
	words[count++] = farmem;
	words[count++] = "run";
	words[count++] = "--local";
	words[count++] = "25%";
	words[count++] = "--region-size";
	words[count++] = "8M";
	words[count++] = "--dir";
	words[count++] = program->dir;
	words[count++] = soak.options.shm ? "--fabric" : "--nodes";
	words[count++] = soak.options.shm ? "shm" : nodes_text;
	words[count++] = "--";
	while (*command && count < WORDS_MAX - 1)
		words[count++] = *command++;
	words[count] = NULL;
	start.environment[0] = "PERL_HASH_SEED=0";
	program->runs++;
	return process_start(&start);
}

static unsigned soak_seconds(unsigned more)
{
	return (unsigned)(soak.options.minutes * 60) + more;
}

static void torture_start(struct program *program)
{
	char path[300], seconds[16], seed[24];
	const char *const words[] = {path, "--seconds", seconds, "--seed", seed, "--threads", "2",
		"--live", "80M", "--dir", soak.scratch, NULL};

	snprintf(path, sizeof path, "%s/farmem-torture", soak.build);
	snprintf(seconds, sizeof seconds, "%u", soak_seconds(12));
	snprintf(seed, sizeof seed, "%llu", (unsigned long long)soak.options.seed);
	program->pid = far_start(program, words);
}

static void redis_start(struct program *program)
{
	char path[300], duration[16], log[128];
	const char *const words[] = {"redis-server", "--port", "0", "--unixsocket", redis_socket,
		"--save", "", "--appendonly", "no", "--dir", soak.scratch, NULL};
	const char *const load[] = {path, "--socket", redis_socket, "--wait", "30s", "--keys",
		REDIS_KEYS, "--connections", "8", "--pipeline", "2", "--duration", duration,
		"--timeout", "60s", NULL};
	struct start start = {.words = load, .out = log, .log = log, .keep_fd = -1};

	snprintf(redis_socket, sizeof redis_socket, "%s/redis.sock", soak.scratch);
	program->pid = far_start(program, words);
	snprintf(path, sizeof path, "%s/farmem-redis-load", soak.build);
	snprintf(duration, sizeof duration, "%us", soak_seconds(4));
	snprintf(log, sizeof log, "%s/redis-load.log", soak.scratch);
	program->helper = process_start(&start);
}

/* perl in even runs, sqlite in odd ones. */
static const char *const *batch_words(unsigned run)
{
	static char perl[300], sqlite[300];
	static const char *const perl_words[] = {"perl", perl, PERL_KEYS, NULL};
	static const char *const sqlite_words[] = {"sqlite3", ":memory:", sqlite, NULL};

	snprintf(perl, sizeof perl, "%s/tests/e2e/perl_hash.pl", soak.source);
	snprintf(sqlite, sizeof sqlite, ".read %s/tests/soak/batch.sql", soak.source);
	return run % 2 ? sqlite_words : perl_words;
}

static void batch_start(struct program *program)
{
	const char *const *words = batch_words(program->runs);

	unlink(program->out);
	program->pid = far_start(program, words);
}

static void batch_native(void)
{
	for (unsigned run = 0; run < 2; run++) {
		char out[96];
		struct start start = {.words = batch_words(run), .out = out, .keep_fd = -1};

		start.environment[0] = "PERL_HASH_SEED=0";
		snprintf(out, sizeof out, "%s/native-%u.out", soak.scratch, run);
		if (process_run(&start, NATIVE_NS) != 0)
			soak_fail("%s fails without farmem", start.words[0]);
	}
}

static void program_start(struct program *program)
{
	if (program->index == TORTURE)
		torture_start(program);
	else if (program->index == REDIS)
		redis_start(program);
	else
		batch_start(program);
}

void programs_begin(void)
{
	soak.programs_count = soak.options.shm ? 2 : 3;
	nodes_list(nodes_text, sizeof nodes_text);
	if (!soak.options.shm)
		batch_native();
	for (unsigned i = 0; i < soak.programs_count; i++) {
		struct program *program = &soak.programs[i];

		program->name = names[i];
		program->index = i;
		snprintf(program->dir, sizeof program->dir, "%s/%s", soak.scratch, names[i]);
		snprintf(program->out, sizeof program->out, "%s/%s.out", soak.scratch, names[i]);
		snprintf(program->log, sizeof program->log, "%s/%s.log", soak.scratch, names[i]);
		program_start(program);
	}
}

/* ---- ending ---- */

static bool files_equal(const char *one, const char *two)
{
	FILE *a = fopen(one, "re"), *b = fopen(two, "re");
	int x = 0, y = 0;

	while (a && b && x == y && x != EOF) {
		x = fgetc(a);
		y = fgetc(b);
	}
	if (a)
		fclose(a);
	if (b)
		fclose(b);
	return a && b && x == y;
}

static void program_unwatch(struct program *program)
{
	const struct watched *watched = &program->watched;

	if (!program->watching)
		return;
	program->degraded += watched_counter(watched, "degraded_reads");
	program->swap_in += watched_counter(watched, "swap_in_pages");
	program->repaired += watched_counter(watched, "repaired_columns");
	program->drained += watched_counter(watched, "drained_columns");
	program->healed += watched_counter(watched, "healed_spansets");
	watched_close(&program->watched);
	program->watching = false;
	for (unsigned i = 0; i < SOAK_FLIPS_MAX; i++)
		if (soak.flips[i].program == program->index)
			soak.flips[i].used = false;
}

static void batch_check(const struct program *program)
{
	char native[96];
	unsigned run = (program->runs - 1) % 2;

	snprintf(native, sizeof native, "%s/native-%u.out", soak.scratch, run);
	if (!files_equal(native, program->out))
		soak_fail(
			"%s: the output is not what it is without farmem", run ? "sqlite" : "perl");
}

static void program_ended(struct program *program, int status)
{
	char text[80];

	program->pid = 0;
	program_unwatch(program);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		soak_fail("%s: %s", program->name, process_ending(status, text, sizeof text));
	else if (program->index == REDIS && !soak.over)
		soak_fail("redis ended by itself");
	else if (program->index == BATCH)
		batch_check(program);
	if (program->index == BATCH && !soak.over && !soak.failed)
		program_start(program);
}

static void program_tick(struct program *program, uint64_t now_ns)
{
	int status;
	char text[80];

	if (program->cont_ns && now_ns >= program->cont_ns) {
		kill(program->pid, SIGCONT);
		program->cont_ns = 0;
	}
	if (program->helper > 0 && process_reap(program->helper, &status)) {
		program->helper = 0;
		if (status != 0)
			soak_fail("redis' content: %s", process_ending(status, text, sizeof text));
		else
			soak_say("redis: every value was right");
	}
	if (program->pid > 0 && process_reap(program->pid, &status))
		program_ended(program, status);
	if (program->pid > 0 && !program->watching && now_ns >= watch_ns)
		program->watching = watched_open(&program->watched, program->pid) == 0;
	if (program->watching && watched_counter(&program->watched, "lost_pages") != 0)
		soak_fail("%s: %llu pages were lost", program->name,
			(unsigned long long)watched_counter(&program->watched, "lost_pages"));
}

void programs_tick(uint64_t now_ns)
{
	for (unsigned i = 0; i < soak.programs_count; i++)
		program_tick(&soak.programs[i], now_ns);
	if (now_ns >= watch_ns)
		watch_ns = now_ns + WATCH_NS;
}

bool programs_far(void)
{
	for (unsigned i = 0; i < BATCH; i++)
		if (!soak.programs[i].watching ||
			watched_counter(&soak.programs[i].watched, "swap_out_pages") < 1000)
			return false;
	return true;
}

static bool programs_running(void)
{
	bool running = false;

	for (unsigned i = 0; i < soak.programs_count; i++)
		running |= soak.programs[i].helper > 0 ||
			   (soak.programs[i].pid > 0 && soak.programs[i].index != REDIS);
	return running;
}

bool programs_wait(uint64_t timeout_ns)
{
	uint64_t until_ns = clock_now_ns() + timeout_ns;

	while (programs_running() && !soak.failed) {
		if (clock_now_ns() > until_ns) {
			soak_fail("the programs do not end");
			return false;
		}
		soak_tick();
	}
	return !soak.failed;
}

void programs_end(void)
{
	struct program *redis = &soak.programs[REDIS];
	uint64_t until_ns = clock_now_ns() + END_NS;

	if (redis->pid > 0)
		kill(redis->pid, SIGTERM);
	while (redis->pid > 0 && !soak.failed) {
		if (clock_now_ns() > until_ns)
			soak_fail("redis does not end");
		soak_tick();
	}
}

/* ---- agents ---- */

struct agents {
	pid_t pids[8];
	unsigned count;
};

static void agents_each(void *context, pid_t pid, const char *name)
{
	struct agents *agents = context;

	if (process_is_agent(name) && agents->count < sizeof agents->pids / sizeof agents->pids[0])
		agents->pids[agents->count++] = pid;
}

pid_t program_agent(const struct program *program, bool worker)
{
	struct agents agents = {.count = 0};

	process_each(program->dir, agents_each, &agents);
	for (unsigned i = 0; i < agents.count; i++) {
		pid_t parent = process_parent(agents.pids[i]);
		bool child = false;

		for (unsigned j = 0; j < agents.count; j++)
			child |= agents.pids[j] == parent;
		if (child == worker)
			return agents.pids[i];
	}
	return 0;
}
