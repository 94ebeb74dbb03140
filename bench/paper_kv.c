/*
 * bench/paper_kv.c: the transactional key-value store of Carbink's evaluation (OSDI'22, section 5):
 * an in-memory B-tree, values of 4 KiB, transactions of 3 reads and 3 writes by many threads.
 *
 * A write stores a new version; the old one is trimmed late, when the thread that replaced it has
 * replaced --late others. The paper does not print how keys are chosen; here zipfian, --skew. A
 * transaction locks what it touches in one order, so that it is atomic. Every value that is read
 * is checked, all 512 words, against the key and the version; numbers of versions are kept in a
 * table of their own, so that an old value is wrong.
 *
 * Phases: fill; warm; "load" (closed loop); "check": every key is read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/paper.h"
#include "bench/paper_tree.h"

#define VALUE_BYTES 4096
#define VALUE_WORDS (VALUE_BYTES / 8)
#define READS 3
#define WRITES 3
#define KEYS (READS + WRITES)

/* One value of a key, newest first. Header and value are two allocations: 4096 bytes are a page. */
struct version {
	struct version *older;
	uint64_t number;
	uint64_t *value;
};

struct record {
	uint64_t key;
	struct version *newest;
};

/* Versions that this thread has replaced, oldest at `next`. */
struct trimmer {
	struct late {
		struct record *record;
		struct version *version;
	} * ring;
	uint64_t next;
};

struct kv_options {
	struct bench_options common;
	uint64_t size_bytes, threads, seed, warm_ns, phase_ns, skew_percent, late_percent;
	char csv[256], far[256], until[256];
};

#define FLAG(flag, kind, field, rest...)                                                           \
	{                                                                                          \
		.name = flag, .type = kind, .offset = offsetof(struct kv_options, field),          \
		.flag_only = true, rest                                                            \
	}

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	FLAG("size", OPTION_SIZE, size_bytes, .min = 1u << 20, .value = "256M", .argument = "SIZE",
		.help = "bytes of all newest values"),
	FLAG("threads", OPTION_COUNT, threads, .min = 1, .max = PAPER_THREADS_MAX, .value = "8",
		.argument = "N", .help = "threads"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "N", .help = "of all choices"),
	FLAG("warm", OPTION_DURATION, warm_ns, .value = "2s", .argument = "TIME",
		.help = "transactions before anything is measured"),
	FLAG("phase", OPTION_DURATION, phase_ns, .min = 1000000, .value = "4s", .argument = "TIME",
		.help = "length of the measured phase"),
	FLAG("skew", OPTION_COUNT, skew_percent, .max = 300, .value = "99", .argument = "N",
		.help = "100 times the exponent of the zipfian choice of keys"),
	FLAG("late", OPTION_COUNT, late_percent, .max = 400, .value = "10", .argument = "PERCENT",
		.help = "old versions kept, of the number of keys"),
	FLAG("csv", OPTION_STRING, csv, .size = 256, .argument = "FILE",
		.help = "time line of the load phase"),
	FLAG("warm-until", OPTION_STRING, far, .size = 256, .argument = "FILE",
		.help = "go on warming until this file is there (a minute at most)"),
	FLAG("until", OPTION_STRING, until, .size = 256, .argument = "FILE",
		.help = "the load goes on until this file is there, instead of --phase"),
};
static const struct bench_program program = {"paper_kv",
	"The transactional key-value store of Carbink's evaluation.", specs, FM_ARRAY_COUNT(specs)};

static struct kv_options options;
static uint64_t count, late_each; /* keys; old versions kept by each thread */
static struct tree tree;
static uint32_t *numbers; /* of the newest version, by key; under the key's lock */
static struct zipf zipf;
static struct scatter scatter;
static struct trimmer trimmers[PAPER_THREADS_MAX];

static void *must_malloc(size_t bytes)
{
	void *memory = malloc(bytes);

	if (memory == NULL)
		exit(bench_fail("no memory"));
	return memory;
}

static uint64_t seed_of(uint64_t key, uint64_t number)
{
	return key << 24 ^ number;
}

static struct version *version_new(uint64_t key, uint64_t number, struct version *older)
{
	struct version *version = must_malloc(sizeof(*version));

	*version = (struct version){older, number, must_malloc(VALUE_BYTES)};
	pattern_fill(version->value, VALUE_WORDS, seed_of(key, number));
	return version;
}

static void version_unlink(struct record *record, struct version *version)
{
	struct version **at = &record->newest;

	while (*at != version)
		at = &(*at)->older;
	*at = version->older;
	free(version->value);
	free(version);
}

/* Keys are the scrambled numbers 0..count-1; insertion in that order is random order. */
static struct record *record_of(uint64_t number)
{
	return tree_find(&tree, bench_mix(number));
}

static uint64_t record_wrong(const struct record *record, uint64_t number)
{
	if (record == NULL || record->key != number || record->newest->number != numbers[number])
		return 1;
	return pattern_wrong(record->newest->value, VALUE_WORDS, seed_of(number, numbers[number]));
}

/* The thread's oldest late version goes. Its key's lock is not held yet. */
static void trim(struct trimmer *trimmer)
{
	struct late *oldest = &trimmer->ring[trimmer->next];
	unsigned lock;

	if (oldest->version == NULL)
		return;
	lock = paper_lock_index(oldest->record->key);
	paper_lock(lock);
	version_unlink(oldest->record, oldest->version);
	paper_unlock(lock);
	oldest->version = NULL;
}

static void write_one(struct paper_worker *worker, struct record *record, uint64_t number)
{
	struct trimmer *trimmer = &trimmers[worker->index];
	struct late *late = &trimmer->ring[trimmer->next];
	struct version *old;

	if (record == NULL || record->newest->number != numbers[number]) {
		worker->wrong++;
		return;
	}
	old = record->newest;
	numbers[number]++;
	record->newest = version_new(number, numbers[number], old);
	*late = (struct late){record, old};
	trimmer->next = (trimmer->next + 1) % late_each;
}

/* Sorts and drops what is there twice; returns how many are left. */
static unsigned locks_sort(unsigned locks[KEYS])
{
	unsigned left = 0;

	for (unsigned i = 1; i < KEYS; i++)
		for (unsigned j = i; j > 0 && locks[j - 1] > locks[j]; j--) {
			unsigned larger = locks[j - 1];

			locks[j - 1] = locks[j];
			locks[j] = larger;
		}
	for (unsigned i = 0; i < KEYS; i++)
		if (left == 0 || locks[left - 1] != locks[i])
			locks[left++] = locks[i];
	return left;
}

static void transaction(struct paper_worker *worker)
{
	struct trimmer *trimmer = &trimmers[worker->index];
	uint64_t keys[KEYS], before = trimmer->next;
	unsigned locks[KEYS], locks_count;

	for (unsigned i = 0; i < KEYS; i++) {
		keys[i] = scatter_of(&scatter, zipf_draw(&zipf, &worker->random));
		locks[i] = paper_lock_index(keys[i]);
	}
	/* Room for what this transaction replaces. */
	for (unsigned i = 0; i < WRITES; i++) {
		trimmer->next = (before + i) % late_each;
		trim(trimmer);
	}
	trimmer->next = before;
	locks_count = locks_sort(locks);
	for (unsigned i = 0; i < locks_count; i++)
		paper_lock(locks[i]);
	for (unsigned i = 0; i < READS; i++)
		worker->wrong += record_wrong(record_of(keys[i]), keys[i]);
	for (unsigned i = READS; i < KEYS; i++)
		write_one(worker, record_of(keys[i]), keys[i]);
	for (unsigned i = locks_count; i > 0; i--)
		paper_unlock(locks[i - 1]);
}

static void fill_values(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	(void)worker;
	for (uint64_t number = from; number < to; number++)
		record_of(number)->newest = version_new(number, 0, NULL);
}

static int fill(void)
{
	for (uint64_t number = 0; number < count; number++) {
		struct record *record = must_malloc(sizeof(*record));

		*record = (struct record){number, NULL};
		if (tree_insert(&tree, bench_mix(number), record) != 0)
			return bench_fail(
				"key %llu cannot be inserted", (unsigned long long)number);
	}
	paper_parallel(count, fill_values);
	return 0;
}

static void check(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	for (uint64_t number = from; number < to; number++)
		worker->wrong += record_wrong(record_of(number), number);
}

static int setup(void)
{
	if (options.common.tiny) {
		options.size_bytes = 8u << 20;
		options.warm_ns = options.phase_ns = 100000000;
	}
	count = options.size_bytes / VALUE_BYTES;
	late_each = FM_MAX(count * options.late_percent / 100 / options.threads, 2 * WRITES);
	numbers = calloc(count, sizeof(*numbers));
	if (numbers == NULL)
		return bench_fail("no memory for %llu keys", (unsigned long long)count);
	for (unsigned i = 0; i < options.threads; i++) {
		trimmers[i].ring = calloc(late_each, sizeof(*trimmers[i].ring));
		if (trimmers[i].ring == NULL)
			return bench_fail("no memory for old versions");
	}
	zipf_init(&zipf, count, (double)options.skew_percent / 100);
	scatter_init(&scatter, count, options.seed);
	return paper_begin(program.name, options.threads, options.seed, options.csv);
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &options, argc, argv, NULL);

	if (status >= 0)
		return status;
	status = setup();
	if (status != 0)
		return status;
	status = fill();
	if (status != 0)
		return status;
	paper_warm(&(struct paper_phase){"warm", options.warm_ns, 0, transaction, NULL}, 0,
		options.far);
	paper_run_phase(&(struct paper_phase){
		"load", options.phase_ns, 0, transaction, options.until[0] ? options.until : NULL});
	paper_parallel(count, check);
	return paper_end();
}
