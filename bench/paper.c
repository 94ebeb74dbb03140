/* bench/paper.c: see paper.h. */
#include "bench/paper.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hist.h"

#define DUE_SLEEP_NS 200000ull /* a thread that waits longer for the next operation sleeps */

static struct {
	const char *name;
	unsigned threads;
	struct paper_worker workers[PAPER_THREADS_MAX];
	pthread_mutex_t locks[PAPER_LOCKS];
	struct paper_phase phase;
	uint64_t start_ns;
	_Atomic uint64_t end_ns;
	/* open loop: who holds `pacer` waits for the next operation to become due */
	pthread_mutex_t pacer;
	uint64_t ticket, jitter;
	/* a body over a range */
	void (*body)(struct paper_worker *worker, uint64_t from, uint64_t to);
	uint64_t count;
	/* the thread that looks on: time line, and the file that ends the phase */
	FILE *csv;
	_Atomic bool look_stop;
	struct hist line; /* all operations of the phase, while there is a time line */
} paper = {.pacer = PTHREAD_MUTEX_INITIALIZER};

/* ---- zipf: rejection-inversion (W. Hoermann, G. Derflinger, ACM TOMACS 6(3), 1996) ---- */

/* The integral of x^-skew, and its inverse. */
static double zipf_integral(const struct zipf *zipf, double x)
{
	double power = 1 - zipf->skew;

	return fabs(power) < 1e-9 ? log(x) : (pow(x, power) - 1) / power;
}

static double zipf_inverse(const struct zipf *zipf, double y)
{
	double power = 1 - zipf->skew;

	return fabs(power) < 1e-9 ? exp(y) : pow(fmax(1 + y * power, 1e-300), 1 / power);
}

void zipf_init(struct zipf *zipf, uint64_t count, double skew)
{
	zipf->skew = skew;
	zipf->count = (double)count;
	zipf->h_first = zipf_integral(zipf, 1.5) - 1;
	zipf->h_last = zipf_integral(zipf, zipf->count + 0.5);
	zipf->shortcut = 2 - zipf_inverse(zipf, zipf_integral(zipf, 2.5) - pow(2, -skew));
}

uint64_t zipf_draw(const struct zipf *zipf, uint64_t *random)
{
	if (zipf->skew <= 0)
		return bench_random_below(random, (uint64_t)zipf->count);
	for (;;) { /* the expected number of rounds is below 1.2 for every skew and count */
		double unit = (double)(bench_random(random) >> 11) * 0x1p-53;
		double u = zipf->h_last + unit * (zipf->h_first - zipf->h_last);
		double x = zipf_inverse(zipf, u), rank = fmin(fmax(floor(x + 0.5), 1), zipf->count);

		if (rank - x <= zipf->shortcut ||
			u >= zipf_integral(zipf, rank + 0.5) - pow(rank, -zipf->skew))
			return (uint64_t)rank - 1;
	}
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b != 0) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

void scatter_init(struct scatter *scatter, uint64_t count, uint64_t seed)
{
	scatter->count = count;
	scatter->offset = bench_mix(seed) % count;
	scatter->factor = (uint64_t)((double)count * 0.6180339887) | 1;
	while (common_divisor(scatter->factor, count) != 1)
		scatter->factor += 2;
}

/* ---- content ---- */

void pattern_fill(uint64_t *words, uint64_t count, uint64_t seed)
{
	uint64_t base = bench_mix(seed);

	for (uint64_t i = 0; i < count; i++)
		words[i] = (base + i) * 0x9e3779b97f4a7c15ull;
}

uint64_t pattern_wrong(const uint64_t *words, uint64_t count, uint64_t seed)
{
	uint64_t base = bench_mix(seed), wrong = 0;

	for (uint64_t i = 0; i < count; i++)
		wrong += words[i] != (base + i) * 0x9e3779b97f4a7c15ull;
	return wrong;
}

/* ---- locks ---- */

unsigned paper_lock_index(uint64_t object)
{
	return (unsigned)(bench_mix(object) & (PAPER_LOCKS - 1));
}

void paper_lock(unsigned index)
{
	pthread_mutex_lock(&paper.locks[index]);
}

void paper_unlock(unsigned index)
{
	pthread_mutex_unlock(&paper.locks[index]);
}

/* ---- time line: a row per 100 ms ---- */

static uint64_t unix_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_until(uint64_t until_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static void line_add(uint64_t at_ns)
{
	static struct hist before, window;

	if (at_ns == paper.start_ns + PAPER_WINDOW_NS)
		hist_reset(&before);
	hist_delta(&window, &paper.line, &before);
	hist_merge(&before, &window);
	fprintf(paper.csv, "%s,%llu,%llu,%llu,%.1f,%.1f,%.1f,0,0\n", paper.phase.name,
		(unsigned long long)((at_ns - paper.start_ns) / NS_PER_MS),
		(unsigned long long)unix_ms(), (unsigned long long)window.count,
		(double)hist_quantile(&window, 0.5) / 1e3,
		(double)hist_quantile(&window, 0.99) / 1e3,
		(double)hist_quantile(&window, 1) / 1e3);
}

static void *look_body(void *argument)
{
	(void)argument;
	for (uint64_t at_ns = paper.start_ns + PAPER_WINDOW_NS; !paper.look_stop;
		at_ns += PAPER_WINDOW_NS) {
		sleep_until(at_ns);
		if (paper.csv)
			line_add(at_ns);
		if (paper.phase.until && access(paper.phase.until, F_OK) == 0)
			paper.end_ns = clock_now_ns();
	}
	if (paper.csv)
		fflush(paper.csv);
	return NULL;
}

/* ---- phases ---- */

/* Waits until the next operation is due and returns when that was; 0: the phase is over. */
static uint64_t wait_due(void)
{
	double gap_ns = 1e9 / paper.phase.rate;
	uint64_t due_ns;

	pthread_mutex_lock(&paper.pacer);
	due_ns = paper.start_ns +
		 (uint64_t)(((double)paper.ticket +
				    (double)(bench_random(&paper.jitter) >> 11) * 0x1p-53) *
			    gap_ns);
	paper.ticket++;
	if (due_ns < paper.end_ns && due_ns > clock_now_ns() + DUE_SLEEP_NS)
		sleep_until(due_ns - DUE_SLEEP_NS / 4);
	while (due_ns < paper.end_ns && clock_now_ns() < due_ns)
		clock_pause(due_ns);
	pthread_mutex_unlock(&paper.pacer);
	return due_ns < paper.end_ns && clock_now_ns() < paper.end_ns ? due_ns : 0;
}

static void *phase_body(void *argument)
{
	struct paper_worker *w = argument;
	bool open = paper.phase.rate > 0, line = paper.csv != NULL;
	uint64_t begin_ns, now_ns = clock_now_ns();

	prctl(PR_SET_TIMERSLACK, 1);
	while ((begin_ns = open ? wait_due() : now_ns) != 0 && begin_ns < paper.end_ns) {
		paper.phase.operation(w);
		now_ns = clock_now_ns();
		bench_hist_record(&w->hist, now_ns - begin_ns);
		w->ops++;
		if (line)
			hist_record(&paper.line, now_ns - begin_ns);
	}
	return NULL;
}

static void *range_body(void *argument)
{
	struct paper_worker *w = argument;
	uint64_t share = paper.count / paper.threads, from = w->index * share;

	paper.body(w, from, w->index + 1 == paper.threads ? paper.count : from + share);
	return NULL;
}

/* The first worker is the main thread. */
static void in_all_threads(void *(*body)(void *))
{
	for (unsigned i = 1; i < paper.threads; i++)
		if (pthread_create(&paper.workers[i].thread, NULL, body, &paper.workers[i]) != 0)
			exit(bench_fail("no thread"));
	body(&paper.workers[0]);
	for (unsigned i = 1; i < paper.threads; i++)
		pthread_join(paper.workers[i].thread, NULL);
}

uint64_t paper_parallel(
	uint64_t count, void (*body)(struct paper_worker *worker, uint64_t from, uint64_t to))
{
	uint64_t start_ns = clock_now_ns();

	paper.body = body;
	paper.count = count;
	in_all_threads(range_body);
	return clock_now_ns() - start_ns;
}

static uint64_t print_end(uint64_t took_ns)
{
	static struct bench_hist all;
	double due = paper.phase.rate * (double)paper.phase.duration_ns / 1e9;
	double per_s;

	memset(&all, 0, sizeof(all));
	for (unsigned i = 0; i < paper.threads; i++)
		bench_hist_merge(&all, &paper.workers[i].hist);
	per_s = (double)all.count * 1e9 / (double)took_ns;
	printf("end %s ops=%llu wall_s=%.4f ops_per_s=%.1f offered_per_s=%.1f share_done=%.4f "
	       "mean_ns=%.0f p50_ns=%llu p99_ns=%llu p99_9_ns=%llu max_ns=%llu\n",
		paper.phase.name, (unsigned long long)all.count, (double)took_ns / 1e9, per_s,
		paper.phase.rate, due > 1 ? fmin((double)all.count / due, 1) : 1,
		all.count ? (double)all.sum / (double)all.count : 0,
		(unsigned long long)bench_hist_quantile(&all, 0.5),
		(unsigned long long)bench_hist_quantile(&all, 0.99),
		(unsigned long long)bench_hist_quantile(&all, 0.999), (unsigned long long)all.max);
	fflush(stdout);
	return all.count;
}

uint64_t paper_run_phase(const struct paper_phase *phase)
{
	FILE *csv = paper.csv;
	bool looks;
	pthread_t look;
	uint64_t ops;

	paper.phase = *phase;
	paper.ticket = 0;
	paper.look_stop = false;
	hist_reset(&paper.line);
	for (unsigned i = 0; i < paper.threads; i++) {
		paper.workers[i].ops = 0;
		memset(&paper.workers[i].hist, 0, sizeof(paper.workers[i].hist));
	}
	if (strcmp(phase->name, "load") != 0)
		paper.csv = NULL;
	looks = paper.csv || phase->until;
	paper_mark_begin(phase->name);
	paper.start_ns = clock_now_ns();
	paper.end_ns = paper.start_ns + (phase->until ? PAPER_UNTIL_NS : phase->duration_ns);
	if (looks && pthread_create(&look, NULL, look_body, NULL) != 0)
		exit(bench_fail("no thread"));
	in_all_threads(phase_body);
	ops = print_end(clock_now_ns() - paper.start_ns);
	paper.look_stop = true;
	if (looks)
		pthread_join(look, NULL);
	paper.csv = csv;
	return ops;
}

void paper_warm(const struct paper_phase *phase, uint64_t operations, const char *until)
{
	uint64_t until_ns = clock_now_ns() + PAPER_WARM_NS, ops = 0;

	do
		ops += paper_run_phase(phase);
	while ((ops < operations || (until[0] != '\0' && access(until, F_OK) != 0)) &&
		clock_now_ns() < until_ns);
}

void paper_mark_begin(const char *phase)
{
	printf("begin %s\n", phase);
	fflush(stdout);
}

void paper_mark_end(const char *phase, uint64_t ops, uint64_t took_ns)
{
	printf("end %s ops=%llu wall_s=%.4f ops_per_s=%.1f\n", phase, (unsigned long long)ops,
		(double)took_ns / 1e9, (double)ops * 1e9 / (double)took_ns);
	fflush(stdout);
}

void paper_wrong(uint64_t words)
{
	paper.workers[0].wrong += words;
}

int paper_begin(const char *name, uint64_t threads, uint64_t seed, const char *csv)
{
	paper.name = name;
	paper.threads = (unsigned)threads;
	paper.jitter = bench_mix(seed);
	for (unsigned i = 0; i < PAPER_LOCKS; i++)
		pthread_mutex_init(&paper.locks[i], NULL);
	for (unsigned i = 0; i < paper.threads; i++) {
		paper.workers[i].index = i;
		paper.workers[i].random = bench_mix(seed + i) << 16;
	}
	if (csv[0] == '\0')
		return 0;
	paper.csv = fopen(csv, "we");
	if (paper.csv == NULL)
		return bench_fail("%s: %s", csv, strerror(errno));
	fprintf(paper.csv, "phase,at_ms,unix_ms,ops,p50_us,p99_us,max_us,errors,wrong\n");
	return 0;
}

int paper_end(void)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < paper.threads; i++)
		wrong += paper.workers[i].wrong;
	if (paper.csv)
		fclose(paper.csv);
	if (wrong != 0)
		return bench_fail("%llu words were wrong", (unsigned long long)wrong);
	printf("right %s\n", paper.name);
	return 0;
}

int paper_list(const char *text, double values[PAPER_LIST_MAX])
{
	int count = 0;

	while (*text != '\0') {
		char *end;
		double value = strtod(text, &end);

		if (end == text || count == PAPER_LIST_MAX || !(value >= 0) || isinf(value) ||
			(*end != ',' && *end != '\0'))
			return -EINVAL;
		values[count++] = value;
		text = *end == ',' ? end + 1 : end;
	}
	return count;
}
