/*
 * bench/access.c: the random-access workload of figures 1 and 4: an ordinary program that mallocs,
 * fills and then reads and writes 8-byte words at random places, checking every byte of it that it
 * meets.
 *
 * It is run under farmem, under jemalloc alone, and under a memory cgroup with zram (bench/zram);
 * it knows of none of them. Content is random (constant payloads flatter compression) and tells on
 * itself:
 *   - word i of the array holds {16-bit version, 48 bits mixed from i and that version}: bytes of
 * another place, of another time or half of each do not match;
 *   - the first word of each page carries the number of writes to the page, and the same number is
 * kept in a small near table: a whole page from the past does not match either. Table and
 * histograms lie in static storage or base/mem.h, so that the array alone may go far.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"

#define THREADS_MAX 64
#define WORDS_PER_PAGE (FM_PAGE_SIZE / 8)
#define VERSION_SHIFT 48

struct access_options {
	struct bench_options common;
	uint64_t size_bytes, reads_percent, accesses, warm_up, threads, seed;
	bool untimed;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "size",
		.type = OPTION_SIZE,
		.offset = offsetof(struct access_options, size_bytes),
		.min = 1u << 16,
		.max = 1ull << 40,
		.value = "512M",
		.argument = "SIZE",
		.help = "bytes to malloc and fill",
		.flag_only = true},
	{.name = "reads",
		.type = OPTION_COUNT,
		.offset = offsetof(struct access_options, reads_percent),
		.max = 100,
		.value = "50",
		.argument = "PERCENT",
		.help = "share of reads; the rest are writes",
		.flag_only = true},
	{.name = "accesses",
		.type = OPTION_COUNT,
		.offset = offsetof(struct access_options, accesses),
		.min = 1,
		.value = "1000000",
		.argument = "N",
		.help = "accesses to measure, over all threads",
		.flag_only = true},
	{.name = "warm-up",
		.type = OPTION_COUNT,
		.offset = offsetof(struct access_options, warm_up),
		.value = "200000",
		.argument = "N",
		.help = "accesses before them, not measured",
		.flag_only = true},
	{.name = "threads",
		.type = OPTION_COUNT,
		.offset = offsetof(struct access_options, threads),
		.min = 1,
		.max = THREADS_MAX,
		.value = "1",
		.argument = "N",
		.help = "threads, each with its part of the array",
		.flag_only = true},
	{.name = "seed",
		.type = OPTION_COUNT,
		.offset = offsetof(struct access_options, seed),
		.value = "1",
		.argument = "N",
		.help = "of places and content",
		.flag_only = true},
	{.name = "untimed",
		.type = OPTION_BOOL,
		.offset = offsetof(struct access_options, untimed),
		.help = "no clock around each access: mean only",
		.flag_only = true},
};
static const struct bench_program program = {"access",
	"Random 8-byte reads and writes over a malloc'd array, content checked.", specs,
	FM_ARRAY_COUNT(specs)};

struct worker {
	pthread_t thread;
	uint64_t first_page, pages; /* its part of the array */
	uint64_t random, sum;       /* sum keeps reads from being optimised away */
	uint64_t wrong;             /* words that did not match */
	struct bench_hist hist;
};

static struct access_options options;
static uint64_t *array;
static uint16_t *writes; /* per page, near */
static uint64_t salt;
static struct worker workers[THREADS_MAX];

static uint64_t word_make(uint64_t index, uint64_t version)
{
	uint64_t mixed = bench_mix(bench_mix(index ^ salt) + version);

	return version << VERSION_SHIFT | mixed >> (64 - VERSION_SHIFT);
}

static bool word_right(uint64_t index, uint64_t word)
{
	return word == word_make(index, word >> VERSION_SHIFT);
}

/* The first word of a page: its count of writes, whatever that is now. */
static uint64_t page_head(uint64_t page)
{
	return word_make(page * WORDS_PER_PAGE, writes[page]);
}

static void fill(void)
{
	uint64_t pages = options.size_bytes / FM_PAGE_SIZE;

	for (uint64_t page = 0; page < pages; page++) {
		writes[page] = (uint16_t)bench_mix(page + salt);
		for (uint64_t i = page * WORDS_PER_PAGE; i < (page + 1) * WORDS_PER_PAGE; i++)
			array[i] = word_make(i, bench_mix(i ^ ~salt) & 0xffff);
		array[page * WORDS_PER_PAGE] = page_head(page);
	}
}

static void access_one(struct worker *w, uint64_t page, uint64_t index, bool is_read)
{
	uint64_t word = array[index];

	if (!word_right(index, word) || array[page * WORDS_PER_PAGE] != page_head(page))
		w->wrong++;
	w->sum += word;
	if (is_read)
		return;
	array[index] = word_make(index, ((word >> VERSION_SHIFT) + 1) & 0xffff);
	writes[page]++;
	array[page * WORDS_PER_PAGE] = page_head(page);
}

/* `count` accesses; each with its own clock when `timed`. */
static void access_many(struct worker *w, uint64_t count, bool timed)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t page = w->first_page + bench_random_below(&w->random, w->pages);
		uint64_t in_page = 1 + bench_random_below(&w->random, WORDS_PER_PAGE - 1);
		bool is_read = bench_random_below(&w->random, 100) < options.reads_percent;
		uint64_t start_ns = timed ? clock_now_ns() : 0;

		access_one(w, page, page * WORDS_PER_PAGE + in_page, is_read);
		if (timed)
			bench_hist_record(&w->hist, clock_now_ns() - start_ns);
	}
}

static void *worker_warm(void *argument)
{
	access_many(argument, options.warm_up / options.threads, false);
	return NULL;
}

static void *worker_measure(void *argument)
{
	access_many(argument, options.accesses / options.threads, !options.untimed);
	return NULL;
}

/* Runs a phase in all workers; returns its ns. The first worker is the main thread. */
static uint64_t phase(void *(*body)(void *))
{
	uint64_t start_ns = clock_now_ns();

	for (uint64_t i = 1; i < options.threads; i++)
		if (pthread_create(&workers[i].thread, NULL, body, &workers[i]) != 0)
			exit(bench_fail("no thread"));
	body(&workers[0]);
	for (uint64_t i = 1; i < options.threads; i++)
		pthread_join(workers[i].thread, NULL);
	return clock_now_ns() - start_ns;
}

static uint64_t check_all(void)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < options.size_bytes / 8; i++)
		wrong += i % WORDS_PER_PAGE == 0 ? array[i] != page_head(i / WORDS_PER_PAGE)
						 : !word_right(i, array[i]);
	return wrong;
}

static void report_print(uint64_t fill_ns, uint64_t took_ns)
{
	uint64_t done = options.accesses / options.threads * options.threads;
	struct bench_report report;

	bench_report_open(&report, program.name, options.common.json);
	bench_report_count(&report, "size_bytes", options.size_bytes);
	bench_report_count(&report, "reads_percent", options.reads_percent);
	bench_report_count(&report, "threads", options.threads);
	bench_report_count(&report, "accesses", done);
	bench_report_number(&report, "fill_s", (double)fill_ns / 1e9);
	bench_report_number(&report, "access_per_s", (double)done * 1e9 / (double)took_ns);
	bench_report_number(
		&report, "ns_per_access", (double)took_ns * (double)options.threads / (double)done);
	if (!options.untimed)
		bench_report_hist(&report, "", &workers[0].hist);
	bench_report_close(&report);
}

static int setup(void)
{
	uint64_t pages;

	if (options.common.tiny) {
		options.size_bytes = 8u << 20;
		options.accesses = 20000;
		options.warm_up = 2000;
	}
	options.size_bytes = FM_ALIGN_DOWN(options.size_bytes, (uint64_t)FM_PAGE_SIZE);
	pages = options.size_bytes / FM_PAGE_SIZE;
	salt = bench_mix(options.seed);
	if (pages < options.threads || options.accesses < options.threads)
		return bench_fail(
			"too small for %llu threads", (unsigned long long)options.threads);
	writes = mem_map(pages * sizeof(*writes));
	if (writes == NULL ||
		posix_memalign((void **)&array, FM_PAGE_SIZE, options.size_bytes) != 0)
		return bench_fail(
			"no memory for %llu bytes", (unsigned long long)options.size_bytes);
	for (uint64_t i = 0; i < options.threads; i++) {
		workers[i].pages = pages / options.threads;
		workers[i].first_page = i * workers[i].pages;
		workers[i].random = bench_mix(salt + i) << 20;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &options, argc, argv, NULL);
	uint64_t start_ns, fill_ns, took_ns, wrong;

	if (status >= 0)
		return status;
	status = setup();
	if (status != 0)
		return status;
	start_ns = clock_now_ns();
	fill();
	fill_ns = clock_now_ns() - start_ns;
	phase(worker_warm);
	took_ns = phase(worker_measure);
	wrong = check_all();
	for (uint64_t i = 0; i < options.threads; i++) {
		wrong += workers[i].wrong;
		if (i > 0)
			bench_hist_merge(&workers[0].hist, &workers[i].hist);
	}
	if (wrong != 0)
		return bench_fail("%llu words were wrong", (unsigned long long)wrong);
	report_print(fill_ns, took_ns);
	free(array);
	return 0;
}
