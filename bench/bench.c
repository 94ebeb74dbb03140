/* bench/bench.c: see bench.h. */
#include "bench/bench.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MACHINE_TEXT_MAX 128

static const char *bench_name = "bench";

/* The value after "key<blanks>:" in a /proc file; "unknown" when there is none. */
static void proc_value(const char *path, const char *key, char *text, size_t size)
{
	char line[512];
	FILE *file = fopen(path, "re");

	snprintf(text, size, "unknown");
	if (file == NULL)
		return;
	while (fgets(line, sizeof(line), file) != NULL) {
		const char *colon = strchr(line, ':');

		if (strncmp(line, key, strlen(key)) != 0 || colon == NULL)
			continue;
		colon++;
		colon += strspn(colon, " \t");
		snprintf(text, size, "%.*s", (int)strcspn(colon, "\n"), colon);
		break;
	}
	fclose(file);
}

struct machine {
	char cpu[MACHINE_TEXT_MAX], memory[MACHINE_TEXT_MAX];
	struct utsname kernel;
	long cpus;
};

static void machine_read(struct machine *machine)
{
	proc_value("/proc/cpuinfo", "model name", machine->cpu, sizeof(machine->cpu));
	proc_value("/proc/meminfo", "MemTotal", machine->memory, sizeof(machine->memory));
	machine->cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uname(&machine->kernel);
}

static void print_help(const struct bench_program *program)
{
	printf("usage: %s [flags]\n%s\n\n", program->name, program->summary);
	fflush(stdout);
	options_print_help(program->specs, program->specs_count, STDOUT_FILENO);
}

int bench_parse(const struct bench_program *program, void *into, int argc, char **argv, int *rest)
{
	struct option_error error = {{0}};
	int index = 1;

	bench_name = program->name;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help(program);
			return 0;
		}
	if (options_set_defaults(program->specs, program->specs_count, into, &error) != 0 ||
		options_read_flags(program->specs, program->specs_count, into, argc, argv, &index,
			&error) != 0) {
		fprintf(stderr, "%s: %s\n", program->name, error.text);
		return BENCH_EXIT_USAGE;
	}
	if (rest != NULL) {
		*rest = index;
	} else if (index < argc) {
		fprintf(stderr, "%s: '%s' is no flag; see --help\n", program->name, argv[index]);
		return BENCH_EXIT_USAGE;
	}
	return -1;
}

static void print_quoted(const char *text)
{
	putchar('"');
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

void bench_report_open(struct bench_report *report, const char *name, bool json)
{
	struct machine machine;

	report->json = json;
	report->first = true;
	machine_read(&machine);
	if (json) {
		printf("{\"bench\":");
		print_quoted(name);
		printf(",\"machine\":{\"cpu\":");
		print_quoted(machine.cpu);
		printf(",\"cpus\":%ld,\"kernel\":", machine.cpus);
		print_quoted(machine.kernel.release);
		printf(",\"memory\":");
		print_quoted(machine.memory);
		printf("}");
	} else {
		printf("machine: %s, %ld CPUs, kernel %s, memory %s\n%s", machine.cpu, machine.cpus,
			machine.kernel.release, machine.memory, name);
	}
}

static void report_key(const struct bench_report *report, const char *key)
{
	if (report->json) {
		putchar(',');
		print_quoted(key);
		putchar(':');
	} else {
		printf(" %s=", key);
	}
}

void bench_report_text(struct bench_report *report, const char *key, const char *value)
{
	report_key(report, key);
	if (report->json)
		print_quoted(value);
	else
		printf("%s", value);
}

void bench_report_count(struct bench_report *report, const char *key, uint64_t value)
{
	report_key(report, key);
	printf("%llu", (unsigned long long)value);
}

void bench_report_number(struct bench_report *report, const char *key, double value)
{
	report_key(report, key);
	printf(value < 100 ? "%.3f" : "%.1f", value);
}

void bench_report_close(struct bench_report *report)
{
	printf(report->json ? "}\n" : "\n");
	fflush(stdout);
}

int bench_skip(const char *format, ...)
{
	va_list arguments;

	printf("SKIP: ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	return BENCH_EXIT_SKIP;
}

int bench_fail(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: ", bench_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	return BENCH_EXIT_WRONG;
}

void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from)
{
	into->count += from->count;
	into->sum += from->sum;
	into->max = FM_MAX(into->max, from->max);
	for (unsigned i = 0; i < BENCH_HIST_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

/* Upper end of a bucket: the largest value that counts in it. */
static uint64_t hist_bucket_last(unsigned index)
{
	if (index < 2u << BENCH_HIST_SUB_BITS)
		return index;
	unsigned shift = (index >> BENCH_HIST_SUB_BITS) - 1;
	uint64_t base = index - ((uint64_t)shift << BENCH_HIST_SUB_BITS);

	return ((base + 1) << shift) - 1;
}

uint64_t bench_hist_quantile(const struct bench_hist *h, double q)
{
	uint64_t seen = 0, wanted = (uint64_t)(q * (double)h->count);

	for (unsigned i = 0; i < BENCH_HIST_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen > wanted)
			return FM_MIN(hist_bucket_last(i), h->max);
	}
	return h->max;
}

void bench_report_hist(struct bench_report *report, const char *prefix, const struct bench_hist *h)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = {{"p50_ns", 0.5}, {"p99_ns", 0.99}, {"p99_9_ns", 0.999}};
	char key[64];

	snprintf(key, sizeof(key), "%smean_ns", prefix);
	bench_report_number(report, key, h->count ? (double)h->sum / (double)h->count : 0);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(quantiles); i++) {
		snprintf(key, sizeof(key), "%s%s", prefix, quantiles[i].name);
		bench_report_count(report, key, bench_hist_quantile(h, quantiles[i].q));
	}
	snprintf(key, sizeof(key), "%smax_ns", prefix);
	bench_report_count(report, key, h->max);
}

void bench_pin(unsigned nth)
{
	cpu_set_t allowed, one;
	unsigned count, skip;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		return;
	count = (unsigned)CPU_COUNT(&allowed);
	skip = nth % count;
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || skip-- > 0)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		(void)sched_setaffinity(0, sizeof(one), &one); /* a wish */
		return;
	}
}

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), double_compare);
	return values[count / 2];
}
