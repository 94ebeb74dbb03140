/*
 * apps/lbsim_trace.c: how the rate of the adaptive policy moves: the traces of its tuners.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apps/lbsim.h"
#include "lb/tuner.h"

#define REQUESTS_DEFAULT 6000000u
#define CLIENTS_DRAWN 8u

/* "load=0.8": what changes in the middle of the run. */
static int parse_step(const char *text, uint32_t requests, struct sim_options *sim)
{
	struct sim_change *change = &sim->changes[sim->change_count];
	char copy[128], *value;

	if (text[0] == '\0')
		return 0;
	snprintf(copy, sizeof(copy), "%s", text);
	value = strchr(copy, '=');
	if (!value)
		return -EINVAL;
	*value++ = '\0';
	change->at_request = requests / 2;
	if (strcmp(copy, "service") == 0) {
		change->kind = SIM_SERVICE;
		for (unsigned i = 0; i < CHANCE_SERVICES; i++)
			if (strcmp(chance_service_names[i], value) == 0) {
				change->value = i;
				sim->change_count++;
				return 0;
			}
		return -EINVAL;
	}
	change->kind = strcmp(copy, "load") == 0 ? SIM_LOAD : SIM_SLOW;
	if (change->kind == SIM_SLOW && strcmp(copy, "slow") != 0)
		return -EINVAL;
	if (lbsim_parse_number(value, &change->value) < 0)
		return -EINVAL;
	if (change->kind == SIM_LOAD ? !(change->value > 0 && change->value <= 10)
				     : change->value > 1)
		return -EINVAL;
	sim->change_count++;
	return 0;
}

/* The rates in a trace (CSV of tuner_trace). */
static void read_trace(struct balancer *balancer, struct plot_line *line)
{
	char *text = NULL, *row, *rest;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);

	if (!memory)
		return;
	tuner_trace(balancer_tuner(balancer), memory);
	fclose(memory);
	for (row = strtok_r(text, "\n", &rest); row; row = strtok_r(NULL, "\n", &rest))
		if (line->count < PLOT_POINTS_MAX &&
			sscanf(row, "%lf,%lf", &line->x[line->count], &line->y[line->count]) == 2)
			line->count++;
	free(text);
}

static int draw_traces(struct sim *sim, uint32_t clients, const char *path)
{
	static const char *const names[CLIENTS_DRAWN] = {"client 0", "client 1", "client 2",
		"client 3", "client 4", "client 5", "client 6", "client 7"};
	struct plot_line *lines = calloc(CLIENTS_DRAWN, sizeof(*lines));
	struct plot plot = {.title = "the tuners' rates",
		.x_name = "simulated seconds",
		.y_name = "probes per RPC (f)",
		.y_log = true,
		.lines = lines,
		.line_count = clients < CLIENTS_DRAWN ? clients : CLIENTS_DRAWN};
	FILE *file = fopen(path, "we");
	int status = LBSIM_FAILED;

	if (!file)
		lbsim_complain("%s: %m", path);
	if (file && lines) {
		for (unsigned i = 0; i < plot.line_count; i++) {
			lines[i].name = names[i];
			read_trace(sim_balancer(sim, i), &lines[i]);
		}
		plot_draw(&plot, file);
		status = ferror(file) ? LBSIM_FAILED : LBSIM_OK;
	}
	if (file)
		fclose(file);
	free(lines);
	return status;
}

static int show_trace(
	const struct lbsim_options *options, const struct sim_options *base, struct sim *sim)
{
	int status = LBSIM_OK;
	FILE *out = stdout;

	if (options->csv[0]) {
		out = fopen(options->csv, "we");
		if (!out) {
			lbsim_complain("%s: %m", options->csv);
			return LBSIM_FAILED;
		}
	}
	tuner_trace(balancer_tuner(sim_balancer(sim, 0)), out);
	if (out != stdout && (ferror(out) | fclose(out))) {
		lbsim_complain("%s: cannot be written", options->csv);
		status = LBSIM_FAILED;
	}
	if (options->svg[0] && draw_traces(sim, base->clients, options->svg) != LBSIM_OK)
		status = LBSIM_FAILED;
	return status;
}

static void print_summary(struct sim *sim, const struct sim_options *base)
{
	struct sim_latency first, last;
	struct sim_result result;

	sim_result(sim, &result);
	sim_latency(sim, 0, base->requests / 10, &first);
	sim_latency(sim, base->requests - base->requests / 10, base->requests, &last);
	lbsim_complain(
		"f at the end %.2f (mean of %u clients); p99 of the first tenth %.1f us, of the "
		"last %.1f us",
		result.rate_mean, base->clients, first.p99_ns / 1e3, last.p99_ns / 1e3);
}

int lbsim_tuner(const struct lbsim_options *options)
{
	static const struct lbsim_contestant mew = {.policy = "mew", .probe = STATION_PROBES};
	struct sim_options base;
	struct sim *sim = NULL;
	const char *why = "out of memory";
	double start;
	int rc, status;

	if (lbsim_base(options, &base) != LBSIM_OK)
		return LBSIM_USAGE;
	if (options->requests == 0)
		base.requests = REQUESTS_DEFAULT;
	if (lbsim_parse_number(options->loads, &base.load) < 0 || !(base.load > 0)) {
		lbsim_complain("--load: one load here; --step load=.. changes it in the middle");
		return LBSIM_USAGE;
	}
	if (parse_step(options->step, base.requests, &base) < 0) {
		lbsim_complain("--step: load=0.8, slow=0.25 or service=bimodal");
		return LBSIM_USAGE;
	}
	if (lbsim_parse_number(options->start, &start) < 0 || !(start > 0 && start <= 16)) {
		lbsim_complain("--start: a rate above 0, at most 16");
		return LBSIM_USAGE;
	}
	lbsim_enter(options, &mew, &base);
	base.balancer.probes_per_rpc = start;
	rc = sim_open(&base, &sim, &why);
	if (rc < 0) {
		lbsim_complain("%s", why);
		return LBSIM_USAGE;
	}
	rc = sim_run(sim);
	if (rc < 0) {
		lbsim_complain("out of memory");
		sim_close(sim);
		return LBSIM_FAILED;
	}
	status = show_trace(options, &base, sim);
	print_summary(sim, &base);
	sim_close(sim);
	return status;
}
