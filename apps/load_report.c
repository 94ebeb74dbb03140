/*
 * apps/load_report.c: the table of fm-load, and the same as JSON. See load.h.
 */
#include "apps/load.h"

#include <string.h>

#include "base/clock.h"
#include "lb/channel.h"

#define U(x) ((unsigned long long)(x))
#define LATE_SHARE_MAX 10.0 /* of the SLO */

/* "1.25ms [1.20, 1.31]" */
static void print_time(FILE *out, struct load_estimate e)
{
	char text[64];
	double unit = e.value >= 1e9 ? 1e9 : e.value >= 1e6 ? 1e6 : 1e3;
	const char *name = e.value >= 1e9 ? "s" : e.value >= 1e6 ? "ms" : "us";

	snprintf(text, sizeof(text), "%.3g%s [%.3g, %.3g]", e.value / unit, name, e.low / unit,
		e.high / unit);
	fprintf(out, " %-24s", text);
}

static void print_ratio(FILE *out, struct load_estimate e)
{
	char text[64];

	snprintf(text, sizeof(text), "%.2f [%.2f, %.2f]", e.value, e.low, e.high);
	fprintf(out, " %-19s", text);
}

static double share(uint64_t part, uint64_t whole)
{
	return whole > 0 ? (double)part / (double)whole : 0;
}

static void report_row(const struct load_job *job, unsigned rate, unsigned index, FILE *out)
{
	const struct load_policy *policy = &job->policies[index];
	const struct load_series *series = &policy->series[rate];
	const struct load_series *base = &job->policies[job->baseline].series[rate];
	struct load_slice total = load_total(series, job->rounds_count);
	struct load_estimate good = load_goodput(series, job->rounds_count);

	fprintf(out, "%-15s", policy->name);
	print_time(out, load_quantile(series, job->rounds_count, 0.5));
	print_time(out, load_quantile(series, job->rounds_count, 0.99));
	print_time(out, load_quantile(series, job->rounds_count, 0.999));
	print_ratio(out, load_quantile_ratio(series, base, job->rounds_count, 0.99));
	fprintf(out, " %8.0f %5.1f%% %7.2f %7llu %8.3f\n", good.value,
		100 * share(total.good, total.sent), share(total.probes, total.sent),
		U(total.failed), share(series->late_sum_ns, series->late_count) / 1e6);
}

static void report_servers(const struct load_job *job, FILE *out)
{
	unsigned servers = 1;

	for (const char *at = job->options.servers; *at != '\0'; at++)
		servers += *at == ',';
	fprintf(out,
		"%u servers; %u rounds of %.2f s per policy, of which %.2f s warm-up; SLO %.3g "
		"ms\n",
		servers, job->rounds_count, (double)job->options.slice_ns / 1e9,
		(double)job->options.warm_up_ns / 1e9, (double)job->options.slo_ns / 1e6);
}

/* Then what was measured is this machine, and not the servers. */
static void report_lateness(const struct load_job *job, FILE *out)
{
	for (unsigned i = 0; i < job->policies_count; i++)
		for (unsigned rate = 0; rate < job->rates_count; rate++) {
			const struct load_series *series = &job->policies[i].series[rate];
			double late_ns = share(series->late_sum_ns, series->late_count);

			if (late_ns > (double)job->options.slo_ns / LATE_SHARE_MAX) {
				fprintf(out,
					"\nnot to be trusted: requests left %.3g ms late on "
					"average "
					"(%s, %.0f/s): this machine is too busy\n",
					late_ns / 1e6, job->policies[i].name, job->rates[rate]);
				return;
			}
		}
}

void load_report_text(const struct load_job *job, FILE *out)
{
	report_servers(job, out);
	for (unsigned rate = 0; rate < job->rates_count; rate++) {
		fprintf(out,
			"\n%.0f requests/s\n%-15s %-24s %-24s %-24s p99/%-15s %8s %6s %7s %7s "
			"%8s\n",
			job->rates[rate], "policy", "p50 [95%]", "p99 [95%]", "p99.9 [95%]",
			job->policies[job->baseline].name, "good/s", "good", "probes", "failed",
			"late ms");
		for (unsigned i = 0; i < job->policies_count; i++)
			report_row(job, rate, i, out);
	}
	report_lateness(job, out);
	fprintf(out, "\ngood: answered within the SLO; probes: per request; late: how late "
		     "requests left, "
		     "on average\n");
}

/* --- JSON ---------------------------------------------------------------------------------------
 */

static void json_estimate(FILE *out, const char *key, struct load_estimate e)
{
	fprintf(out, ",\"%s\":%.6g,\"%s_low\":%.6g,\"%s_high\":%.6g", key, e.value, key, e.low, key,
		e.high);
}

static void json_series(const struct load_job *job, unsigned rate, unsigned index, FILE *out)
{
	const struct load_policy *policy = &job->policies[index];
	const struct load_series *series = &policy->series[rate];
	const struct load_series *base = &job->policies[job->baseline].series[rate];
	struct load_slice total = load_total(series, job->rounds_count);
	unsigned rounds = job->rounds_count;

	fprintf(out,
		"{\"policy\":\"%s\",\"rate\":%.6g,\"sent\":%llu,\"good\":%llu,\"failed\":%llu,"
		"\"refused\":%llu,\"probes_per_rpc\":%.4f,\"late_mean_ns\":%.0f,\"late_max_ns\":%"
		"llu",
		policy->name, job->rates[rate], U(total.sent), U(total.good), U(total.failed),
		U(total.refused), share(total.probes, total.sent),
		share(series->late_sum_ns, series->late_count), U(series->late_max_ns));
	json_estimate(out, "p50_ns", load_quantile(series, rounds, 0.5));
	json_estimate(out, "p99_ns", load_quantile(series, rounds, 0.99));
	json_estimate(out, "p999_ns", load_quantile(series, rounds, 0.999));
	json_estimate(out, "p99_ratio", load_quantile_ratio(series, base, rounds, 0.99));
	json_estimate(out, "goodput", load_goodput(series, rounds));
	fprintf(out, "}");
}

static void json_channel(const struct load_policy *policy, FILE *out)
{
	char stats[CHANNEL_STATS_BYTES];

	if (fm_rpc_stats(policy->channel, stats, sizeof(stats)) < 0)
		memcpy(stats, "null", 5);
	fputs(stats, out);
}

void load_report_json(const struct load_job *job, FILE *out)
{
	fprintf(out,
		"{\"rounds\":%u,\"slice_ns\":%llu,\"warm_up_ns\":%llu,\"slo_ns\":%llu,"
		"\"baseline\":\"%s\",\"series\":[",
		job->rounds_count, U(job->options.slice_ns), U(job->options.warm_up_ns),
		U(job->options.slo_ns), job->policies[job->baseline].name);
	for (unsigned rate = 0; rate < job->rates_count; rate++)
		for (unsigned i = 0; i < job->policies_count; i++) {
			fputs(rate + i > 0 ? "," : "", out);
			json_series(job, rate, i, out);
		}
	fputs("],\"channels\":[", out);
	for (unsigned i = 0; i < job->policies_count; i++) {
		fputs(i > 0 ? "," : "", out);
		json_channel(&job->policies[i], out);
	}
	fputs("]}\n", out);
}
