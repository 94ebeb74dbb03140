/*
 * apps/lbsim_options.c: the flags of fm-lbsim, and what they mean for a simulation.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apps/lbsim.h"
#include "base/clock.h"

#define REQUESTS_DEFAULT 300000u
#define REQUESTS_PER_SERVER 400u
#define RANGE_STEP 0.05

/* In the order of enum station_probe. */
static const char *const probe_names[] = {"ebpf", "user", "thread", NULL};

#define FLAG(flag, kind, field, rest...)                                                           \
	{                                                                                          \
		.name = flag, .type = kind, .offset = offsetof(struct lbsim_options, field),       \
		.flag_only = true, rest                                                            \
	}
#define TEXT(flag, field, rest...)                                                                 \
	FLAG(flag, OPTION_STRING, field, .size = sizeof(((struct lbsim_options *)0)->field), rest)

const struct option_spec lbsim_specs[] = {
	FLAG("servers", OPTION_COUNT, servers, .min = 1, .max = LB_SERVERS_MAX, .value = "32",
		.argument = "COUNT", .help = "servers"),
	FLAG("workers", OPTION_COUNT, workers, .min = 1, .max = STATION_WORKERS_MAX, .value = "1",
		.argument = "COUNT", .help = "workers of each server"),
	FLAG("clients", OPTION_COUNT, clients, .max = SIM_CLIENTS_MAX, .argument = "COUNT",
		.help = "clients; 0: as many as servers"),
	FLAG("load", OPTION_STRING, loads, .size = sizeof(((struct lbsim_options *)0)->loads),
		.value = "0.6", .argument = "LIST",
		.help = "offered load: 0.6, or 0.5,0.7, or 0.5..0.95[:STEP]"),
	TEXT("policy", policies, .value = "main", .argument = "LIST",
		.help = "main, all, or POLICY[@ebpf|@user|@thread][=F],.. (how probes are "
			"answered;\n"
			"F probes per RPC)"),
	FLAG("service", OPTION_CHOICE, service, .choices = chance_service_names,
		.value = "exponential", .argument = "KIND",
		.help = "service times: constant, exponential, bimodal (10 % of 11 times the "
			"rest),\n"
			"heavy (0.5 % of 200 times the rest), lognormal"),
	FLAG("service-time", OPTION_DURATION, service_ns, .min = 100, .value = "10us",
		.argument = "TIME", .help = "their mean"),
	FLAG("network", OPTION_DURATION, network_ns, .value = "5us", .argument = "TIME",
		.help = "one way through the network"),
	FLAG("jitter", OPTION_DURATION, jitter_ns, .value = "0", .argument = "TIME",
		.help = "mean of an exponential delay on top of it"),
	FLAG("probe", OPTION_CHOICE, probe, .choices = probe_names, .value = "ebpf",
		.argument = "KIND",
		.help = "who answers probes where --policy does not say: ebpf, user (the workers,\n"
			"in turn with the RPCs), thread (a user thread that may interrupt them)"),
	FLAG("ebpf-cost", OPTION_DURATION, ebpf_ns, .value = "100ns", .argument = "TIME",
		.help = "CPU time of an answer by eBPF"),
	FLAG("user-cost", OPTION_DURATION, user_ns, .value = "1us", .argument = "TIME",
		.help = "CPU time of an answer by user space"),
	TEXT("probe-loss", loss, .value = "0", .argument = "SHARE", .help = "probes that get lost"),
	FLAG("bare-replies", OPTION_BOOL, bare_replies,
		.help = "replies do not carry the load: nothing is known but by probes"),
	FLAG("quantum", OPTION_DURATION, quantum_ns, .value = "0", .argument = "TIME",
		.help = "requests give way after so long while others wait; 0: never"),
	FLAG("deadline", OPTION_DURATION, deadline_ns, .value = "0", .argument = "TIME",
		.help = "of requests; 0: none"),
	TEXT("burst", burst, .value = "1", .argument = "FACTOR",
		.help = "arrivals in bursts: for 10 % of the time, so many times the rest"),
	TEXT("slow", slow, .value = "0", .argument = "SHARE",
		.help = "servers that run at half speed"),
	FLAG("degraded", OPTION_COUNT, degraded, .max = LB_SERVERS_MAX, .value = "0",
		.argument = "COUNT", .help = "servers that run at 1/16 of the speed"),
	TEXT("antagonist", antagonist, .value = "0", .argument = "SHARE",
		.help = "servers of which another program takes 60 % every other 5 ms"),
	FLAG("failing", OPTION_COUNT, failing, .max = LB_SERVERS_MAX, .value = "0",
		.argument = "COUNT",
		.help = "servers that fail every request at once (needs --deadline)"),
	FLAG("restart", OPTION_COUNT, restarts, .max = LB_SERVERS_MAX, .value = "0",
		.argument = "COUNT",
		.help = "servers that die in the middle, for 5 ms (needs --deadline)"),
	TEXT("rate", rates, .value = "0,0.1,0.2,0.5,1,2,3,4,6,8", .argument = "LIST",
		.help = "curve: probes per RPC"),
	TEXT("start", start, .value = "1", .argument = "F", .help = "tuner: where it begins"),
	TEXT("step", step, .argument = "WHAT=VALUE",
		.help = "tuner: what changes in the middle: load=0.8, slow=0.25, service=bimodal"),
	FLAG("slo", OPTION_DURATION, slo_ns, .value = "100us", .argument = "TIME",
		.help = "goodput is the load up to which the p99 stays below"),
	FLAG("requests", OPTION_COUNT, requests, .max = SIM_REQUESTS_MAX, .argument = "COUNT",
		.help = "of each run; 0: 300000, or 400 for each server if that is more"),
	FLAG("seeds", OPTION_COUNT, seeds, .min = 1, .max = LBSIM_SEEDS_MAX, .value = "3",
		.argument = "COUNT", .help = "runs at each point; confidence intervals from 2 on"),
	FLAG("seed", OPTION_COUNT, seed, .min = 1, .value = "1", .argument = "NUMBER",
		.help = "the first of them"),
	FLAG("quick", OPTION_BOOL, quick, .help = "experiment: small, for a test"),
	FLAG("json", OPTION_BOOL, json, .help = "print JSON instead of tables"),
	TEXT("csv", csv, .argument = "FILE", .help = "every point, as CSV"),
	TEXT("svg", svg, .argument = "FILE", .help = "a picture"),
};
const unsigned lbsim_specs_count = sizeof(lbsim_specs) / sizeof(lbsim_specs[0]);

void lbsim_complain(const char *format, ...)
{
	char line[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	fflush(stdout);
	dprintf(STDERR_FILENO, "fm-lbsim: %s\n", line);
}

int lbsim_parse_number(const char *text, double *value)
{
	char *end;

	errno = 0;
	*value = strtod(text, &end);
	return end == text || *end != '\0' || errno != 0 || !isfinite(*value) || *value < 0
		       ? -EINVAL
		       : 0;
}

static int parse_range(char *text, double *values, unsigned max)
{
	char *last = strstr(text, ".."), *step_text = strchr(text, ':');
	double from, to, step = RANGE_STEP;
	unsigned count = 0;

	*last = '\0';
	last += 2;
	if (step_text) {
		*step_text++ = '\0';
		if (lbsim_parse_number(step_text, &step) < 0)
			return -EINVAL;
	}
	if (lbsim_parse_number(text, &from) < 0 || lbsim_parse_number(last, &to) < 0 || step <= 0)
		return -EINVAL;
	/* By count, so that 0.5..0.95 ends with 0.95. */
	while (from + count * step <= to + 1e-9) {
		if (count == max)
			return -EINVAL;
		values[count] = round((from + count * step) * 1e9) / 1e9;
		count++;
	}
	return count > 0 ? (int)count : -EINVAL;
}

int lbsim_parse_list(const char *text, double *values, unsigned max)
{
	char copy[256], *rest, *word;
	unsigned count = 0;

	if ((size_t)snprintf(copy, sizeof(copy), "%s", text) >= sizeof(copy))
		return -EINVAL;
	if (strstr(copy, ".."))
		return parse_range(copy, values, max);
	for (word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		if (count == max || lbsim_parse_number(word, &values[count]) < 0)
			return -EINVAL;
		count++;
	}
	return count > 0 ? (int)count : -EINVAL;
}

static int number(const char *flag, const char *text, double max, double *value)
{
	if (lbsim_parse_number(text, value) == 0 && *value <= max)
		return LBSIM_OK;
	lbsim_complain("--%s: '%s' is no number from 0 to %g", flag, text, max);
	return LBSIM_USAGE;
}

static void set_probe(
	const struct lbsim_options *options, enum station_probe probe, struct sim_options *sim)
{
	sim->probe = probe;
	sim->probe_cost_ns = probe == STATION_PROBE_EBPF ? options->ebpf_ns : options->user_ns;
}

int lbsim_base(const struct lbsim_options *options, struct sim_options *base)
{
	uint64_t requests = options->requests;

	sim_defaults(base);
	base->servers = (uint32_t)options->servers;
	base->workers = (uint32_t)options->workers;
	base->clients = (uint32_t)(options->clients ? options->clients : options->servers);
	if (requests == 0)
		requests = options->servers * options->workers * REQUESTS_PER_SERVER;
	if (options->requests == 0 && requests < REQUESTS_DEFAULT)
		requests = REQUESTS_DEFAULT;
	base->requests = (uint32_t)requests;
	base->service = (enum chance_service)options->service;
	base->service_ns = options->service_ns;
	base->network_ns = options->network_ns;
	base->jitter_ns = options->jitter_ns;
	base->quantum_ns = options->quantum_ns;
	base->deadline_ns = options->deadline_ns;
	base->degraded = (uint32_t)options->degraded;
	base->failing = (uint32_t)options->failing;
	base->restarts = (uint32_t)options->restarts;
	base->seed = options->seed;
	base->bare_replies = options->bare_replies;
	set_probe(options, (enum station_probe)options->probe, base);
	if (options->degraded > options->servers) {
		lbsim_complain("--degraded: there are only %u servers", base->servers);
		return LBSIM_USAGE;
	}
	if ((options->failing > 0 || options->restarts > 0) && options->deadline_ns == 0) {
		lbsim_complain(
			"--failing and --restart need --deadline: a dead server never answers");
		return LBSIM_USAGE;
	}
	if (number("probe-loss", options->loss, 1, &base->probe_loss) ||
		number("burst", options->burst, 1000, &base->burst_factor) ||
		number("slow", options->slow, 1, &base->slow_share) ||
		number("antagonist", options->antagonist, 1, &base->antagonist_share))
		return LBSIM_USAGE;
	return LBSIM_OK;
}

/* --- contestants -------------------------------------------------------------------------------
 */

#define MAIN_POLICIES                                                                              \
	"random,least,p2c@user,p2c@ebpf,prequal@user,prequal-tuned@user,"                          \
	"prequal-tuned@ebpf,prequal-tuned@ebpf/12,mew@ebpf,jsq"
#define ALL_POLICIES                                                                               \
	"random,rr,least,c3,jiq,jbsq,p2c@user,p2c@ebpf,prequal@user,prequal@ebpf,"                 \
	"prequal-tuned@user,prequal-tuned@ebpf,prequal-tuned@ebpf/"                                \
	"12,mew-fixed@user,mew-fixed@ebpf,mew@user,"                                               \
	"mew@ebpf,jsq"

static int contestant(char *word, struct lbsim_contestant *c)
{
	char *rate = strchr(word, '='), *pool = strchr(word, '/'), *probe;
	double entries;
	bool oracle;

	*c = (struct lbsim_contestant){.probe = STATION_PROBES};
	snprintf(c->name, sizeof(c->name), "%s", word);
	if (rate) {
		*rate++ = '\0';
		if (lbsim_parse_number(rate, &c->rate) < 0) {
			lbsim_complain("--policy: '%s' is no number of probes per RPC", rate);
			return -EINVAL;
		}
	}
	if (pool) {
		*pool++ = '\0';
		if (lbsim_parse_number(pool, &entries) < 0 || entries < 1 || entries > 1000) {
			lbsim_complain("--policy: '%s': a pool has 1 to 1000 entries", pool);
			return -EINVAL;
		}
		c->pool = (unsigned)entries;
	}
	probe = strchr(word, '@');
	if (probe) {
		*probe++ = '\0';
		for (unsigned i = 0; probe_names[i]; i++)
			if (strcmp(probe_names[i], probe) == 0)
				c->probe = (enum station_probe)i;
		if (c->probe == STATION_PROBES) {
			lbsim_complain("--policy: '@%s': @ebpf, @user or @thread", probe);
			return -EINVAL;
		}
	}
	if (!balancer_policy_known(word, &oracle)) {
		lbsim_complain("--policy: no policy '%s': %s", word, balancer_policy_names());
		return -EINVAL;
	}
	snprintf(c->policy, sizeof(c->policy), "%s", word);
	c->central = strcmp(word, "jbsq") == 0;
	return 0;
}

int lbsim_contestants(const char *text, struct lbsim_contestant *contestants, unsigned max)
{
	char copy[512], *rest, *word;
	unsigned count = 0;

	if (strcmp(text, "all") == 0)
		text = ALL_POLICIES;
	else if (strcmp(text, "main") == 0)
		text = MAIN_POLICIES;
	if ((size_t)snprintf(copy, sizeof(copy), "%s", text) >= sizeof(copy))
		return -EINVAL;
	for (word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		if (count == max) {
			lbsim_complain("--policy: at most %u of them", max);
			return -EINVAL;
		}
		if (contestant(word, &contestants[count]) < 0)
			return -EINVAL;
		count++;
	}
	if (count == 0)
		lbsim_complain("--policy: names none");
	return count > 0 ? (int)count : -EINVAL;
}

void lbsim_enter(const struct lbsim_options *options, const struct lbsim_contestant *c,
	struct sim_options *sim)
{
	sim->balancer.policy = c->policy;
	if (c->rate > 0)
		sim->balancer.probes_per_rpc = c->rate;
	sim->balancer.pool_size = c->pool;
	if (c->probe != STATION_PROBES)
		set_probe(options, c->probe, sim);
	if (c->central)
		sim->clients = 1;
}
