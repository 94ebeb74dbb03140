/*
 * tests/torture/torture.c: options, slots, lives and the summary of the torture program.
 *
 * A slot is a stream of operations with blocks of its own; a life is the thread that runs a stretch
 * of it. When a life ends its thread ends, and main starts a new one, which inherits the blocks: so
 * memory outlives the thread that asked for it, thread caches are flushed, and blocks go through
 * the exchange to be freed elsewhere.
 *
 * stdout: one line that is the same in every run with the same --ops, --seed, --threads, --live
 * (DIGEST). stderr: counts that depend on time. Exit status 0; 1 with one line at the first wrong
 * byte; 2 for bad usage.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

#define LIFE_STACK_BYTES (512u << 10)

struct torture_options options = {
	.seed = 1,
	.threads = 4,
	.live_bytes = 200u << 20,
	.life_ops = 400,
	.dir = "/tmp",
	.direct = true,
	.children = true,
	.madvise = true,
	.mlock = true,
	.mmap = true,
	.signals = true,
	.stacks = true,
	.io = true,
};
struct torture_counts counts;
_Atomic uint64_t digest;

static struct slot slots[SLOTS_MAX];
static _Atomic bool time_is_up;

/* Where ended lives are announced; it lives in heap memory, as everything that can. */
static struct hall {
	pthread_mutex_t mutex;
	pthread_cond_t announced;
	unsigned ended_count;
	struct slot *ended[SLOTS_MAX];
} * hall;

uint64_t rng_next(struct rng *rng)
{
	uint64_t x = rng->state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

uint64_t rng_below(struct rng *rng, uint64_t below)
{
	return (uint64_t)((unsigned __int128)rng_next(rng) * below >> 64);
}

_Noreturn void torture_fail(const char *format, ...)
{
	static _Atomic bool failed;
	static char line[1024];
	va_list arguments;
	int length;

	if (atomic_exchange(&failed, true))
		for (;;)
			pause(); /* another thread is about to end the program */
	length = snprintf(line, sizeof(line), "torture: ");
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - (size_t)length - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(line) - 2)
		length = (int)sizeof(line) - 2;
	line[length++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)length) < 0)
		_exit(3);
	_exit(1);
}

/* What a slot does when it is neither short of memory nor over its share. */
static const struct operation {
	unsigned weight;
	const bool *enabled; /* NULL: always */
	void (*run)(struct slot *slot);
} operations[] = {
	{20, NULL, block_allocate},
	{20, NULL, block_release},
	{12, NULL, block_resize},
	{40, NULL, block_rewrite},
	{40, NULL, block_peek},
	{10, NULL, block_hand_over},
	{10, NULL, block_take},
	{4, NULL, block_libc},
	{24, &options.io, kernel_io},
	{6, &options.io, kernel_call},
	{6, &options.direct, kernel_direct},
	{8, &options.madvise, kernel_forget},
	{6, &options.mlock, kernel_lock},
	{1, &options.children, company_child},
	{1, NULL, company_condvar},
};
#define OPERATIONS_COUNT (sizeof(operations) / sizeof(operations[0]))

static void slot_step(struct slot *slot)
{
	uint64_t total = 0, dice;

	if (slot->live_bytes < slot->live_target / 10 * 9 && rng_below(&slot->rng, 10) < 5) {
		block_allocate(slot);
		return;
	}
	if (slot->live_bytes > slot->live_target && rng_below(&slot->rng, 10) < 5) {
		block_release(slot);
		return;
	}
	for (size_t i = 0; i < OPERATIONS_COUNT; i++)
		total += operations[i].weight;
	dice = rng_below(&slot->rng, total);
	for (size_t i = 0; i < OPERATIONS_COUNT; i++) {
		if (dice < operations[i].weight) {
			if (!operations[i].enabled || *operations[i].enabled)
				operations[i].run(slot);
			return;
		}
		dice -= operations[i].weight;
	}
}

/* For scripts that do something in the middle: a line per tenth of the first slot's operations. */
static void slot_progress(const struct slot *slot)
{
	uint64_t tenth = options.ops / options.threads / 10;

	if (options.progress && slot->index == 0 && tenth && slot->ops_left % tenth == 0)
		fprintf(stderr, "torture: to do %llu0%%\n",
			(unsigned long long)(slot->ops_left / tenth));
}

static void *slot_live(void *argument)
{
	struct slot *slot = argument;
	uint64_t steps = options.life_ops / 2 + rng_below(&slot->rng, options.life_ops);
	void *altstack;

	company_altstack_begin(&altstack);
	while (steps-- && slot->ops_left &&
		!atomic_load_explicit(&time_is_up, memory_order_relaxed)) {
		if (slot->index == 0 && options.flip_at && slot->ops_left == options.flip_at)
			block_flip(slot);
		slot_step(slot);
		slot_progress(slot);
		slot->ops_left--;
		count_up(ops, 1);
	}
	company_altstack_end(altstack);
	count_up(lives, 1);
	pthread_mutex_lock(&hall->mutex);
	hall->ended[hall->ended_count++] = slot;
	pthread_cond_signal(&hall->announced);
	pthread_mutex_unlock(&hall->mutex);
	return NULL;
}

static void slot_start_life(struct slot *slot)
{
	pthread_attr_t attributes;
	int error;

	pthread_attr_init(&attributes);
	/* Every third life runs on heap memory, which main frees after it. */
	slot->stack = options.stacks && ++slot->life % 3 == 0 ? company_stack_new(LIFE_STACK_BYTES)
							      : NULL;
	if (slot->stack && pthread_attr_setstack(&attributes, slot->stack, LIFE_STACK_BYTES))
		torture_fail("pthread_attr_setstack(%p) failed", slot->stack);
	error = pthread_create(&slot->thread, &attributes, slot_live, slot);
	if (error)
		torture_fail("pthread_create: %s", strerror(error));
	pthread_attr_destroy(&attributes);
}

static struct slot *hall_wait(const struct timespec *until)
{
	struct slot *slot;

	pthread_mutex_lock(&hall->mutex);
	while (hall->ended_count == 0) {
		bool up = atomic_load_explicit(&time_is_up, memory_order_relaxed);

		if (!options.seconds || up)
			pthread_cond_wait(&hall->announced, &hall->mutex);
		else if (pthread_cond_timedwait(&hall->announced, &hall->mutex, until) == ETIMEDOUT)
			atomic_store_explicit(&time_is_up, true, memory_order_relaxed);
	}
	slot = hall->ended[--hall->ended_count];
	pthread_mutex_unlock(&hall->mutex);
	return slot;
}

static void torture_run(void)
{
	struct timespec until;
	unsigned running = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)options.seconds;
	for (; running < options.threads; running++)
		slot_start_life(&slots[running]);
	while (running) {
		struct slot *slot = hall_wait(&until);

		pthread_join(slot->thread, NULL);
		free(slot->stack);
		if (slot->ops_left && !atomic_load_explicit(&time_is_up, memory_order_relaxed))
			slot_start_life(slot);
		else
			running--;
	}
}

static void torture_open(void)
{
	hall = calloc(1, sizeof(*hall));
	if (!hall || pthread_mutex_init(&hall->mutex, NULL) ||
		pthread_cond_init(&hall->announced, NULL))
		torture_fail("setting up: %s", strerror(errno));
	for (unsigned i = 0; i < options.threads; i++) {
		struct slot *slot = &slots[i];

		slot->index = i;
		slot->rng.state = options.seed * 1000003 + i;
		slot->side_rng.state = ~slot->rng.state;
		slot->ops_left =
			options.ops / options.threads + (i < options.ops % options.threads);
		slot->live_target = options.live_bytes / options.threads;
		kernel_open(slot);
	}
	company_alarm_start();
}

static void torture_report(double seconds)
{
	bool whole = true;

	for (unsigned i = 0; i < options.threads; i++)
		whole &= slots[i].ops_left == 0;
	fprintf(stderr,
		"torture: ok ops=%llu lives=%llu blocks=%llu reallocs=%llu handed=%llu taken=%llu "
		"checked=%lluM written=%lluM live_max=%lluM io=%llu direct=%llu madvised=%llu "
		"locked=%llu children=%llu condvars=%llu alarms=%llu seconds=%.1f\n",
		(unsigned long long)counts.ops, (unsigned long long)counts.lives,
		(unsigned long long)counts.blocks, (unsigned long long)counts.reallocs,
		(unsigned long long)counts.handed, (unsigned long long)counts.taken,
		(unsigned long long)counts.checked_bytes >> 20,
		(unsigned long long)counts.written_bytes >> 20,
		(unsigned long long)counts.live_bytes_max >> 20, (unsigned long long)counts.io,
		(unsigned long long)counts.direct, (unsigned long long)counts.madvised,
		(unsigned long long)counts.locked, (unsigned long long)counts.children,
		(unsigned long long)counts.condvars, (unsigned long long)counts.alarms, seconds);
	if (whole)
		printf("torture: DIGEST %016llx ops=%llu seed=%llu threads=%llu live=%llu "
		       "blocks=%llu\n",
			(unsigned long long)digest, (unsigned long long)counts.ops,
			(unsigned long long)options.seed, (unsigned long long)options.threads,
			(unsigned long long)options.live_bytes, (unsigned long long)counts.blocks);
	else
		printf("torture: stopped by --seconds; no digest\n");
}

static const char usage[] =
	"usage: farmem-torture [--ops N | --seconds N] [--seed N] [--threads N] [--live SIZE] "
	"[--life-ops N]\n"
	"  [--dir DIR] [--no-direct] [--no-children] [--no-madvise] [--no-mlock] [--no-mmap] "
	"[--no-signals]\n"
	"  [--no-stacks] [--no-io]\n"
	"A multithreaded program that allocates, fills, checks, moves and frees memory in every "
	"way libc has and\n"
	"hands it to the kernel in many. The line on standard output is the same in every run with "
	"the same\n"
	"parameters (unless --seconds cut it short); the first wrong byte ends it with status 1 "
	"and one line.\n"
	"  --ops N       operations over all threads (default 20000; with --seconds: no bound)\n"
	"  --seconds N   stop after so long\n"
	"  --live SIZE   bytes allocated at any time, e.g. 200M (the default)\n"
	"  --life-ops N  mean operations between a thread's start and end (default 400)\n"
	"  --dir DIR     for temporary files (default /tmp)\n"
	"  --progress    a line on standard error per tenth of the operations\n"
	"  --flip N      wrong one byte N operations before the first slot's end: must be found\n"
	"  --no-...      leave out: O_DIRECT, children, MADV_DONTNEED, mlock, mmap and mremap, "
	"signal handlers on\n"
	"                heap stacks, thread stacks in heap memory, system calls from and to the "
	"heap\n";

static _Noreturn void torture_misused(const char *what, const char *value)
{
	fprintf(stderr, "torture: %s %s: see --help\n", what, value);
	exit(2);
}

static uint64_t parse_number(const char *name, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (end != text && (*end == 'K' || *end == 'M' || *end == 'G')) {
		value <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
		end++;
	}
	if (errno || end == text || *end || text[0] == '-' || value < min || value > max)
		torture_misused(name, text);
	return value;
}

static void torture_read_options(int argc, char **argv)
{
	static const struct option flags[] = {{"ops", 1, NULL, 'o'}, {"seconds", 1, NULL, 's'},
		{"seed", 1, NULL, 'r'}, {"threads", 1, NULL, 't'}, {"live", 1, NULL, 'l'},
		{"life-ops", 1, NULL, 'f'}, {"flip", 1, NULL, 'x'}, {"progress", 0, NULL, 'p'},
		{"dir", 1, NULL, 'd'}, {"help", 0, NULL, 'h'}, {"no-direct", 0, NULL, 0},
		{"no-children", 0, NULL, 1}, {"no-madvise", 0, NULL, 2}, {"no-mlock", 0, NULL, 3},
		{"no-mmap", 0, NULL, 4}, {"no-signals", 0, NULL, 5}, {"no-stacks", 0, NULL, 6},
		{"no-io", 0, NULL, 7}, {NULL, 0, NULL, 0}};
	bool *const switches[] = {&options.direct, &options.children, &options.madvise,
		&options.mlock, &options.mmap, &options.signals, &options.stacks, &options.io};
	int flag;

	while ((flag = getopt_long(argc, argv, "h", flags, NULL)) != -1) {
		if (flag == 'o')
			options.ops = parse_number("--ops", optarg, 1, 1ull << 40);
		else if (flag == 's')
			options.seconds = parse_number("--seconds", optarg, 1, 1u << 20);
		else if (flag == 'r')
			options.seed = parse_number("--seed", optarg, 0, UINT64_MAX >> 21);
		else if (flag == 't')
			options.threads = parse_number("--threads", optarg, 1, SLOTS_MAX);
		else if (flag == 'l')
			options.live_bytes = parse_number("--live", optarg, 1u << 20, 1ull << 40);
		else if (flag == 'f')
			options.life_ops = parse_number("--life-ops", optarg, 2, 1u << 30);
		else if (flag == 'x')
			options.flip_at = parse_number("--flip", optarg, 1, 1ull << 40);
		else if (flag == 'd')
			options.dir = optarg;
		else if (flag == 'p')
			options.progress = true;
		else if (flag >= 0 && flag < 8)
			*switches[flag] = false;
		else if (flag == 'h' && fputs(usage, stdout) >= 0)
			exit(0);
		else
			exit(2);
	}
	if (optind < argc)
		torture_misused("unknown word", argv[optind]);
	if (!options.ops)
		options.ops = options.seconds ? 1ull << 40 : 20000;
}

int main(int argc, char **argv)
{
	struct timespec start, end;

	torture_read_options(argc, argv);
	clock_gettime(CLOCK_MONOTONIC, &start);
	torture_open();
	torture_run();
	company_alarm_stop();
	block_exchange_drain();
	for (unsigned i = 0; i < options.threads; i++) {
		block_release_all(&slots[i]);
		kernel_close(&slots[i]);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	torture_report(
		(double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	free(hall);
	return 0;
}
