/*
 * apps/load.c: fm-load: open-loop load on the servers of a channel, several policies in turn, and
 * how they compare. See load.h for its parts.
 *
 * Exit status: 0 measured; 1 something failed, or not one request was answered; 2 the user's
 * mistake.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "apps/lb_tool.h"
#include "apps/load.h"
#include "base/clock.h"
#include "base/log.h"
#include "lb/channel.h"

#define RATE_MAX 10e6
#define PROBES_PER_RPC_MAX 100.0

#define FLAG(name_, type_, field_, ...)                                                            \
	{                                                                                          \
		.name = name_, .type = type_, .offset = offsetof(struct load_options, field_),     \
		.flag_only = true, __VA_ARGS__                                                     \
	}

static const char *const arrival_names[] = {"poisson", "even", NULL};

static const struct option_spec load_specs[] = {
	FLAG("servers", OPTION_STRING, servers, .size = 8192, .value = "127.0.0.1:7500",
		.argument = "LIST",
		.help = "HOST:PORT, unix:/PATH or shm:/PATH, with commas between"),
	FLAG("other-servers", OPTION_STRING, other_servers, .size = 8192, .argument = "LIST",
		.help = "servers of another kind, for the policies written NAME@other"),
	FLAG("policy", OPTION_STRING, policies, .size = 256, .value = "mew,prequal,p2c,random",
		.argument = "LIST", .help = "in turn, in slices; see POLICIES"),
	FLAG("rate", OPTION_STRING, rates, .size = 256, .value = "1k", .argument = "LIST",
		.help = "requests per second: 20k, or several: 5k,10k,15k"),
	FLAG("seconds", OPTION_DURATION, seconds_ns, .min = 10000000, .value = "10",
		.argument = "TIME", .help = "per policy and rate, warm-up included"),
	FLAG("slice", OPTION_DURATION, slice_ns, .min = 10000000, .value = "1s", .argument = "TIME",
		.help = "how long one policy goes on before the next one's turn"),
	FLAG("warm-up", OPTION_DURATION, warm_up_ns, .value = "200ms", .argument = "TIME",
		.help = "at the beginning of each slice, not counted"),
	FLAG("slo", OPTION_DURATION, slo_ns, .min = 1, .value = "1ms", .argument = "TIME",
		.help = "an answer within it is good"),
	FLAG("deadline", OPTION_DURATION, deadline_ns, .min = 1000, .value = "1s",
		.argument = "TIME", .help = "of each request; a failed one counts with so much"),
	FLAG("bytes", OPTION_COUNT, bytes, .min = 0, .max = FM_RPC_MESSAGE_BYTES_MAX, .value = "64",
		.argument = "BYTES", .help = "of each request and its answer"),
	FLAG("calls-max", OPTION_COUNT, calls_max, .min = 1, .max = CHANNEL_CALLS_MAX,
		.value = "1024", .argument = "COUNT",
		.help = "requests under way; one more fails at once"),
	FLAG("retries", OPTION_COUNT, retries, .max = CHANNEL_RETRIES_MAX, .value = "1",
		.argument = "COUNT", .help = "on another server, when one refuses before any work"),
	FLAG("resend", OPTION_DURATION, resend_ns, .value = "0", .argument = "TIME",
		.help = "repeat to the same server what is unanswered for so long; 0: never"),
	FLAG("probes-per-rpc", OPTION_STRING, probes_per_rpc, .size = 16, .value = "0",
		.argument = "NUMBER",
		.help = "for policies with a fixed rate; 0: each policy's own default"),
	FLAG("sample-age", OPTION_DURATION, sample_age_ns, .value = "0", .argument = "TIME",
		.help = "how long what a server said is believed; 0: each policy's own default"),
	FLAG("service-mean", OPTION_DURATION, service_ns, .value = "0", .argument = "TIME",
		.help = "how long requests take on average, told to policies that want to know;\n"
			"0: they learn or assume it"),
	FLAG("arrivals", OPTION_CHOICE, arrivals, .choices = arrival_names, .value = "poisson",
		.argument = "HOW", .help = "poisson or even"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "NUMBER",
		.help = "decides arrivals and choices"),
	FLAG("baseline", OPTION_STRING, baseline, .size = LOAD_NAME_MAX, .argument = "POLICY",
		.help = "whose p99 the others' are divided by; default: the first"),
	FLAG("json", OPTION_BOOL, json, .help = "print one JSON object instead of the table"),
	FLAG("plot", OPTION_STRING, plot, .size = 256, .argument = "FILE",
		.help = "draw it as SVG: p99 against rate, or, with one rate, against quantile"),
	FLAG("tuner-trace", OPTION_STRING, tuner_trace, .size = 256, .argument = "FILE",
		.help = "what the adaptive policy's tuner did, as CSV"),
	FLAG("log-level", OPTION_CHOICE, log_level, .choices = lb_tool_log_levels, .value = "warn",
		.argument = "LEVEL", .help = "error, warn, info or debug"),
};

static const struct lb_tool tool = {
	.name = "fm-load",
	.summary =
		"usage: fm-load [FLAGS]\n"
		"load servers of libfarmem-rpc in an open loop, policies in turn, and compare\n\n",
	.specs = load_specs,
	.specs_count = FM_ARRAY_COUNT(load_specs),
};

/* --- reading lists ------------------------------------------------------------------------------
 */

/* The next word of a list with commas. False: no more, or (*bad) an empty or too long one. */
static bool word_next(const char **list, char word[LOAD_NAME_MAX], bool *bad)
{
	size_t length = strcspn(*list, ",");

	*bad = false;
	if (**list == '\0')
		return false;
	if (length == 0 || length >= LOAD_NAME_MAX) {
		*bad = true;
		return false;
	}
	memcpy(word, *list, length);
	word[length] = '\0';
	*list += length + ((*list)[length] == ',');
	return true;
}

/* "20k", "1.5M", "300"; above 0. */
static bool rate_parse(const char *text, double *rate)
{
	char *end;

	*rate = strtod(text, &end);
	if (end == text)
		return false;
	if (*end == 'k' || *end == 'K')
		*rate *= 1e3, end++;
	else if (*end == 'M')
		*rate *= 1e6, end++;
	return *end == '\0' && *rate > 0 && *rate <= RATE_MAX;
}

static int read_rates(struct load_job *job)
{
	const char *list = job->options.rates;
	char word[LOAD_NAME_MAX];
	bool bad;

	while (word_next(&list, word, &bad)) {
		if (job->rates_count == LOAD_RATES_MAX)
			return lb_tool_complain(&tool, "--rate: at most %d", LOAD_RATES_MAX);
		if (!rate_parse(word, &job->rates[job->rates_count++]))
			return lb_tool_complain(
				&tool, "--rate: '%s': write 500, 20k or 1M, at most 10M", word);
	}
	if (bad || job->rates_count == 0)
		return lb_tool_complain(
			&tool, "--rate: '%s': a list of numbers", job->options.rates);
	return 0;
}

static void policy_split(struct load_policy *policy, const char word[LOAD_NAME_MAX])
{
	static const char mark[] = "@other";
	size_t length = strlen(word);

	memcpy(policy->name, word, LOAD_NAME_MAX);
	memcpy(policy->policy, word, LOAD_NAME_MAX);
	policy->other = length > strlen(mark) && strcmp(word + length - strlen(mark), mark) == 0;
	if (policy->other)
		policy->policy[length - strlen(mark)] = '\0';
}

static int read_policies(struct load_job *job)
{
	const char *list = job->options.policies;
	char word[LOAD_NAME_MAX];
	bool bad, oracle;

	while (word_next(&list, word, &bad)) {
		if (job->policies_count == LOAD_POLICIES_MAX)
			return lb_tool_complain(&tool, "--policy: at most %d", LOAD_POLICIES_MAX);
		policy_split(&job->policies[job->policies_count], word);
		if (job->policies[job->policies_count].other &&
			job->options.other_servers[0] == '\0')
			return lb_tool_complain(
				&tool, "--policy: '%s': --other-servers says where", word);
		oracle = false; /* an unknown policy leaves it as it is */
		if (!balancer_policy_known(job->policies[job->policies_count].policy, &oracle) ||
			oracle)
			return lb_tool_complain(&tool, "--policy: '%s': %s; there are %s", word,
				oracle ? "in the simulator only" : "unknown",
				balancer_policy_names());
		if (strcmp(word, job->options.baseline) == 0)
			job->baseline = job->policies_count;
		job->policies_count++;
	}
	if (bad || job->policies_count == 0)
		return lb_tool_complain(
			&tool, "--policy: '%s': a list of names", job->options.policies);
	if (job->options.baseline[0] != '\0' &&
		strcmp(job->policies[job->baseline].name, job->options.baseline) != 0)
		return lb_tool_complain(
			&tool, "--baseline: '%s' is not in --policy", job->options.baseline);
	return 0;
}

static int read_numbers(struct load_job *job)
{
	const struct load_options *o = &job->options;
	char *end;

	job->probes_per_rpc = strtod(o->probes_per_rpc, &end);
	if (*end != '\0' || end == o->probes_per_rpc || !(job->probes_per_rpc >= 0) ||
		job->probes_per_rpc > PROBES_PER_RPC_MAX)
		return lb_tool_complain(
			&tool, "--probes-per-rpc: '%s': a number from 0 to 100", o->probes_per_rpc);
	if (o->warm_up_ns >= o->slice_ns)
		return lb_tool_complain(&tool, "--warm-up is not shorter than --slice");
	if (o->seconds_ns / o->slice_ns > LOAD_ROUNDS_MAX)
		return lb_tool_complain(
			&tool, "more than %d slices: make --slice longer", LOAD_ROUNDS_MAX);
	job->rounds_count = (unsigned)FM_MAX(o->seconds_ns / o->slice_ns, 1u);
	return 0;
}

/* --- output -------------------------------------------------------------------------------------
 */

static int open_file(const char *path, FILE **out)
{
	*out = NULL;
	if (path[0] == '\0')
		return 0;
	*out = fopen(path, "we");
	return *out != NULL ? 0 : lb_tool_complain(&tool, "%s: %s", path, strerror(errno));
}

/* Of every adaptive policy. */
static void write_traces(const struct load_job *job, FILE *out)
{
	for (unsigned i = 0; i < job->policies_count; i++)
		(void)channel_trace(job->policies[i].channel, out); /* the others have none */
}

static bool anything_answered(const struct load_job *job)
{
	for (unsigned i = 0; i < job->policies_count; i++)
		for (unsigned rate = 0; rate < job->rates_count; rate++) {
			struct load_slice total =
				load_total(&job->policies[i].series[rate], job->rounds_count);

			if (total.sent > total.failed)
				return true;
		}
	return false;
}

static void job_close(struct load_job *job)
{
	for (unsigned i = 0; i < job->policies_count; i++) {
		fm_rpc_close(job->policies[i].channel);
		for (unsigned rate = 0; rate < job->rates_count; rate++)
			load_series_close(&job->policies[i].series[rate], job->rounds_count);
	}
	free(job->payload);
}

static int job_run(struct load_job *job, FILE *plot, FILE *trace)
{
	int rc = load_run(job), status = 0;

	if (rc < 0) {
		/* A wrong address or policy has been named already. */
		if (rc != -EINVAL)
			lb_tool_complain(&tool, "%s", strerror(-rc));
		status = rc == -EINVAL ? LB_TOOL_EXIT_USAGE : 1;
	} else {
		if (job->options.json)
			load_report_json(job, stdout);
		else
			load_report_text(job, stdout);
		if (plot != NULL)
			load_plot(job, plot);
		if (trace != NULL)
			write_traces(job, trace);
		if (!anything_answered(job)) {
			lb_tool_complain(&tool, "not one request was answered");
			status = 1;
		}
	}
	job_close(job);
	return status;
}

int main(int argc, char **argv)
{
	static struct load_job job;
	FILE *plot = NULL, *trace = NULL;
	int status = lb_tool_begin(&tool, &job.options, argc, argv);

	if (status >= 0)
		return status;
	log_set_level((enum log_level)job.options.log_level);
	status = read_rates(&job);
	if (status == 0)
		status = read_policies(&job);
	if (status == 0)
		status = read_numbers(&job);
	if (status == 0)
		status = open_file(job.options.plot, &plot);
	if (status == 0)
		status = open_file(job.options.tuner_trace, &trace);
	if (status == 0) {
		/* Sleeps end when they should, not 50 us later. */
		prctl(PR_SET_TIMERSLACK, 1);
		job.payload = calloc(1, job.options.bytes + 1);
		status = job.payload != NULL ? job_run(&job, plot, trace) : 1;
	}
	if (plot != NULL && fclose(plot) != 0)
		status = lb_tool_complain(&tool, "%s: %s", job.options.plot, strerror(errno));
	if (trace != NULL && fclose(trace) != 0)
		status =
			lb_tool_complain(&tool, "%s: %s", job.options.tuner_trace, strerror(errno));
	return status;
}
