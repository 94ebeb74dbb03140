/*
 * apps/lbsim_table.c: a set of points as a table, JSON, CSV, and handed to the plot.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "apps/lbsim.h"

#define COLUMNS_MAX 64
#define WORST_SHOWN 10 /* times the best p99 of a picture; above, lines are cut off */

static void print_machine(FILE *out)
{
	char line[256], model[128] = "unknown CPU";
	FILE *file = fopen("/proc/cpuinfo", "re");
	struct utsname system;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "model name : %127[^\n]", model) == 1)
			break;
	if (file)
		fclose(file);
	if (uname(&system) < 0)
		snprintf(system.release, sizeof(system.release), "unknown");
	fprintf(out, "machine: %ld CPUs, %s, Linux %s\n", sysconf(_SC_NPROCESSORS_ONLN), model,
		system.release);
}

void lbsim_print_parameters(
	const struct lbsim_options *options, const struct sim_options *base, FILE *out)
{
	fprintf(out,
		"fleet: %u servers x %u workers, %u clients; service %s of mean %g us; network %g "
		"us"
		" one way\n",
		base->servers, base->workers, base->clients, chance_service_names[base->service],
		(double)base->service_ns / 1e3, (double)base->network_ns / 1e3);
	fprintf(out,
		"probes: eBPF %g us, user space %g us of a worker; %llu seeds from %llu, %u "
		"requests each\n",
		(double)options->ebpf_ns / 1e3, (double)options->user_ns / 1e3,
		(unsigned long long)options->seeds, (unsigned long long)options->seed,
		base->requests);
	print_machine(out);
}

static unsigned columns(const struct lbsim_set *set, double *xs)
{
	unsigned count = 0;

	for (unsigned i = 0; i < set->count && count < COLUMNS_MAX; i++) {
		unsigned known = 0;

		while (known < count && fabs(xs[known] - set->points[i].x) > 1e-9)
			known++;
		if (known == count)
			xs[count++] = set->points[i].x;
	}
	return count;
}

static void print_cell(const struct lbsim_point *point)
{
	char text[32];

	if (!point)
		snprintf(text, sizeof(text), "-");
	else if (point->p99_us.mean >= 1e5)
		snprintf(text, sizeof(text), ">1e5");
	else if (point->p99_us.half > 0)
		snprintf(text, sizeof(text), "%.0f+-%.0f", point->p99_us.mean, point->p99_us.half);
	else
		snprintf(text, sizeof(text), "%.1f", point->p99_us.mean);
	printf(" %10s", text);
}

static void print_table(const struct lbsim_set *set)
{
	double xs[COLUMNS_MAX];
	unsigned count = columns(set, xs);
	bool goodput = false;

	for (unsigned i = 0; i < set->series_count; i++)
		goodput |= set->goodput[i] > 0;
	printf("\np99 in us, by %s:\n%-20s", set->x_name, "");
	for (unsigned i = 0; i < count; i++)
		printf(" %10g", xs[i]);
	printf("%s\n", goodput ? "    goodput" : "");
	for (unsigned series = 0; series < set->series_count; series++) {
		printf("%-20s", set->series[series]);
		for (unsigned i = 0; i < count; i++)
			print_cell(lbsim_find(set, series, xs[i]));
		if (goodput)
			printf(" %10.3f", set->goodput[series]);
		printf("\n");
	}
	if (set->note_count > 0)
		printf("\n");
	for (unsigned i = 0; i < set->note_count; i++)
		printf("%s\n", set->notes[i]);
}

#define FIELDS(point)                                                                              \
	(point)->mean_us.mean, (point)->p50_us.mean, (point)->p99_us.mean, (point)->p99_us.half,   \
		(point)->p99_us.least, (point)->p99_us.most, (point)->p999_us.mean,                \
		(point)->utilisation, (point)->probes_per_rpc, (point)->probe_share,               \
		(point)->probes_per_server_s, (point)->requests_most, (point)->queue_mean,         \
		(point)->queue_most, (point)->failed_share, (point)->rate

static void write_csv(const struct lbsim_set *set, FILE *out)
{
	fprintf(out, "series,x,mean_us,p50_us,p99_us,p99_half_us,p99_least_us,p99_most_us,p999_us,"
		     "utilisation,probes_per_rpc,probe_share,probes_per_server_s,requests_most,"
		     "queue_mean,queue_most,failed_share,rate\n");
	for (unsigned i = 0; i < set->count; i++)
		fprintf(out,
			"%s,%g,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.4f,%.4f,%.5f,%.1f,%.4f,%.3f,"
			"%.3f,%.6f,%.4f\n",
			set->series[set->points[i].series], set->points[i].x,
			FIELDS(&set->points[i]));
}

/* Names come from our own tables and flags that were checked: nothing to escape but in notes. */
static void print_json_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		putchar(*text);
	}
	putchar('"');
}

static void print_json(const struct sim_options *base, const struct lbsim_set *set)
{
	printf("{\"title\": ");
	print_json_text(set->title);
	printf(",\n \"parameters\": {\"servers\": %u, \"workers\": %u, \"clients\": %u, "
	       "\"service\": \"%s\", \"service_ns\": %llu, \"network_ns\": %llu, \"requests\": %u, "
	       "\"seed\": %llu},\n \"x\": ",
		base->servers, base->workers, base->clients, chance_service_names[base->service],
		(unsigned long long)base->service_ns, (unsigned long long)base->network_ns,
		base->requests, (unsigned long long)base->seed);
	print_json_text(set->x_name);
	printf(",\n \"points\": [");
	for (unsigned i = 0; i < set->count; i++)
		printf("%s\n  {\"series\": \"%s\", \"x\": %g, \"mean_us\": %.3f, \"p50_us\": %.3f, "
		       "\"p99_us\": %.3f, \"p99_half_us\": %.3f, \"p99_least_us\": %.3f, "
		       "\"p99_most_us\": %.3f, \"p999_us\": %.3f, \"utilisation\": %.4f, "
		       "\"probes_per_rpc\": %.4f, \"probe_share\": %.5f, "
		       "\"probes_per_server_s\": %.1f, \"requests_most\": %.4f, "
		       "\"queue_mean\": %.3f, \"queue_most\": %.3f, \"failed_share\": %.6f, "
		       "\"rate\": %.4f}",
			i ? "," : "", set->series[set->points[i].series], set->points[i].x,
			FIELDS(&set->points[i]));
	printf("\n ],\n \"goodput\": {");
	for (unsigned i = 0, any = 0; i < set->series_count; i++)
		if (set->goodput[i] > 0)
			printf("%s\"%s\": %.4f", any++ ? ", " : "", set->series[i],
				set->goodput[i]);
	printf("},\n \"notes\": [");
	for (unsigned i = 0; i < set->note_count; i++) {
		printf("%s", i ? ", " : "");
		print_json_text(set->notes[i]);
	}
	printf("],\n \"claims_failed\": %u}\n", set->claims_failed);
}

static void draw(const struct lbsim_options *options, const struct lbsim_set *set, FILE *out)
{
	struct plot_line *lines = calloc(set->series_count, sizeof(*lines));
	struct plot plot = {.title = set->title,
		.x_name = set->x_name,
		.y_name = set->y_name ? set->y_name : "p99, us",
		.x_log = set->x_log,
		.y_log = true,
		.y_mark = set->goodput[0] > 0 ? (double)options->slo_ns / 1e3 : 0,
		.lines = lines,
		.line_count = set->series_count};
	double best = INFINITY;

	if (!lines)
		return;
	for (unsigned i = 0; i < set->count; i++) {
		const struct lbsim_point *point = &set->points[i];
		struct plot_line *line = &lines[point->series];

		line->name = set->series[point->series];
		line->x[line->count] = point->x;
		line->y[line->count] = point->p99_us.mean;
		line->half[line->count++] = point->p99_us.half;
		best = fmin(best, point->p99_us.mean);
	}
	plot.y_max = WORST_SHOWN * best;
	plot_draw(&plot, out);
	free(lines);
}

static int write_file(const char *path, const struct lbsim_options *options,
	const struct lbsim_set *set, bool picture)
{
	FILE *file = fopen(path, "we");

	if (!file) {
		lbsim_complain("%s: %m", path);
		return LBSIM_FAILED;
	}
	if (picture)
		draw(options, set, file);
	else
		write_csv(set, file);
	if (ferror(file) | fclose(file)) {
		lbsim_complain("%s: cannot be written", path);
		return LBSIM_FAILED;
	}
	return LBSIM_OK;
}

int lbsim_show(const struct lbsim_options *options, const struct sim_options *base,
	const struct lbsim_set *set)
{
	int status = set->claims_failed > 0 ? LBSIM_FAILED : LBSIM_OK;

	if (options->json) {
		print_json(base, set);
	} else {
		printf("%s\n", set->title);
		lbsim_print_parameters(options, base, stdout);
		print_table(set);
	}
	fflush(stdout);
	if (options->csv[0] && write_file(options->csv, options, set, false) != LBSIM_OK)
		status = LBSIM_FAILED;
	if (options->svg[0] && write_file(options->svg, options, set, true) != LBSIM_OK)
		status = LBSIM_FAILED;
	return status;
}
