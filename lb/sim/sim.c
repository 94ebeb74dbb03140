/*
 * lb/sim/sim.c: the run: opens everything, hands out the events, adds up. See sim.h.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/sim/measure.h"
#include "lb/sim/sim_parts.h"
#include "lb/tuner.h"

#define FAIL_NS 1000u /* what a failing server takes to say no */

void sim_defaults(struct sim_options *options)
{
	*options = (struct sim_options){
		.balancer = {.policy = "random"},
		.servers = 32,
		.workers = 1,
		.clients = 32,
		.requests = 300000,
		.warm_share = 0.1,
		.load = 0.6,
		.service = CHANCE_EXPONENTIAL,
		.service_ns = 10 * NS_PER_US,
		.network_ns = 5 * NS_PER_US,
		.probe = STATION_PROBE_EBPF,
		.probe_cost_ns = 100,
		.probe_timeout_ns = NS_PER_MS,
		.slow_factor = 2,
		.antagonist_part = 0.6,
		.antagonist_ns = 5 * NS_PER_MS,
		.restart_ns = 5 * NS_PER_MS,
		.burst_ns = NS_PER_MS,
		.calm_ns = 9 * NS_PER_MS,
		.seed = 1,
	};
}

static int refuse(const char **why, const char *text)
{
	if (why)
		*why = text;
	return -EINVAL;
}

static int check_options(const struct sim_options *options, const char **why)
{
	if (options->servers < 1 || options->servers > LB_SERVERS_MAX)
		return refuse(why, "servers: 1..4096");
	if (options->workers < 1 || options->workers > STATION_WORKERS_MAX)
		return refuse(why, "workers: 1..64");
	if (options->clients < 1 || options->clients > SIM_CLIENTS_MAX)
		return refuse(why, "clients: 1..4096");
	if (options->requests < 1 || options->requests > SIM_REQUESTS_MAX)
		return refuse(why, "requests: 1..268435456");
	if (!(options->load > 0) || options->load > 10)
		return refuse(why, "load: above 0, at most 10");
	if (options->service_ns == 0 || (unsigned)options->service >= CHANCE_SERVICES)
		return refuse(why, "service time: above 0, of a known kind");
	if (!(options->warm_share >= 0) || options->warm_share >= 1)
		return refuse(why, "warm-up: a share below 1");
	if (options->restarts + options->failing > options->servers)
		return refuse(why, "more failing and restarting servers than there are servers");
	if ((options->restarts > 0 || options->failing > 0) && options->deadline_ns == 0)
		return refuse(why, "servers that fail need a deadline of the requests");
	if (options->probe_loss > 0 && options->probe_timeout_ns == 0)
		return refuse(why, "probes that get lost need a timeout");
	if (options->change_count > SIM_CHANGES_MAX || !(options->slow_factor >= 1))
		return refuse(why, "at most 16 changes; slow servers are slower");
	return 0;
}

/* What an all-knowing dispatcher knows: with what is still on its way. */
static uint32_t oracle(void *context, uint32_t server)
{
	struct sim *sim = context;

	return sim->stations.items[server].assigned;
}

static int open_clients(struct sim *sim, const char **why)
{
	struct balancer_options options = sim->options.balancer;

	options.servers = sim->options.servers;
	options.clients = sim->options.clients;
	options.oracle = oracle;
	options.oracle_context = sim;
	if (options.service_ns == 0)
		options.service_ns = sim->options.service_ns;
	if (options.server_workers == 0)
		options.server_workers = sim->options.workers;
	options.ask_timeout_ns = sim->options.probe_timeout_ns;
	for (uint32_t i = 0; i < sim->options.clients; i++) {
		struct sim_client *client = &sim->clients[i];
		int rc;

		*client = (struct sim_client){.parked_head = JOB_NONE,
			.parked_tail = JOB_NONE,
			.timer_ns = CLOCK_NEVER_NS};
		options.seed = chance_bits(&sim->chances[STREAM_CLIENTS]) | 1;
		rc = balancer_open(&options, &client->balancer, why);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int open_tables(struct sim *sim)
{
	size_t requests = sim->options.requests;

	if (events_open(&sim->events) < 0)
		return -ENOMEM;
	sim->stations.events = &sim->events;
	sim->stations.rules = (struct station_rules){.quantum_ns = sim->options.quantum_ns,
		.switch_ns = sim->options.switch_ns,
		.event_kind = SIM_WORKER_END};
	if (stations_open(&sim->stations, sim->options.servers, sim->options.workers) < 0)
		return -ENOMEM;
	sim->clients = calloc(sim->options.clients, sizeof(*sim->clients));
	sim->latency_ns = calloc(requests, sizeof(*sim->latency_ns));
	sim->scratch = malloc(requests * sizeof(*sim->scratch));
	sim->arrival_s = calloc(requests / SIM_ARRIVALS_KEPT + 1, sizeof(*sim->arrival_s));
	sim->speeds = calloc(sim->options.servers, sizeof(*sim->speeds));
	if (!sim->clients || !sim->latency_ns || !sim->scratch || !sim->arrival_s || !sim->speeds)
		return -ENOMEM;
	return 0;
}

int sim_open(const struct sim_options *options, struct sim **opened, const char **why)
{
	struct sim *sim;
	int rc = check_options(options, why);

	if (rc < 0)
		return rc;
	sim = calloc(1, sizeof(*sim));
	if (!sim)
		return -ENOMEM;
	sim->options = *options;
	if (sim->options.probe_timeout_ns == 0)
		sim->options.probe_timeout_ns = NS_PER_MS;
	for (unsigned i = 0; i < SIM_STREAMS; i++)
		chance_seed(&sim->chances[i], options->seed, i);
	rc = open_tables(sim);
	if (rc == 0)
		rc = open_clients(sim, why);
	if (rc < 0) {
		sim_close(sim);
		return rc;
	}
	*opened = sim;
	return 0;
}

void sim_close(struct sim *sim)
{
	if (!sim)
		return;
	for (uint32_t i = 0; sim->clients && i < sim->options.clients; i++)
		balancer_close(sim->clients[i].balancer);
	free(sim->clients);
	stations_close(&sim->stations);
	events_close(&sim->events);
	free(sim->latency_ns);
	free(sim->scratch);
	free(sim->arrival_s);
	free(sim->speeds);
	free(sim);
}

static void arrival(struct sim *sim, const struct event *event)
{
	struct chance *chance = &sim->chances[STREAM_SERVICE];
	uint32_t client;
	double work_ns;
	double load = sim->options.load;

	if (event->serial != sim->arrival_serial || sim->arrived == sim->options.requests)
		return;
	weather_change(sim);
	client = chance_below(&sim->chances[STREAM_CLIENTS], sim->options.clients);
	work_ns = chance_of_service(chance, sim->options.service, (double)sim->options.service_ns);
	if (sim->arrived % SIM_ARRIVALS_KEPT == 0)
		sim->arrival_s[sim->arrived / SIM_ARRIVALS_KEPT] = (double)event->at_ns / 1e9;
	caller_request(sim, client, work_ns);
	sim->arrived++;
	sim->last_arrival_ns = event->at_ns;
	if (sim->arrived == sim->options.requests)
		return;
	if (load != sim->options.load)
		weather_set_gap(sim);
	else
		weather_next_arrival(sim, sim->arrival_ns);
}

/* The answer to a job leaves its server at at_ns. */
static void answer(struct sim *sim, uint32_t index, uint64_t at_ns)
{
	struct job *job = sim_job(sim, index);
	uint64_t ns = sim->options.network_ns;

	if (sim->options.jitter_ns > 0)
		ns += (uint64_t)chance_exponential(
			&sim->chances[STREAM_NETWORK], (double)sim->options.jitter_ns);
	station_load(&sim->stations, job->server, &job->load);
	events_add_lane(&sim->events, LANE_ANSWERS,
		&(struct event){.at_ns = at_ns + ns, .kind = SIM_AT_CLIENT, .who = index});
}

static void lost_at_server(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);

	job->away = false;
	if (job->ended)
		jobs_give(&sim->stations.jobs, index);
}

static void at_server(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);
	struct station *station = &sim->stations.items[job->server];

	if (station->down) {
		lost_at_server(sim, index);
	} else if (job->kind == JOB_REQUEST && station->failing) {
		job->status = -EIO;
		station->requests++;
		station->assigned--;
		answer(sim, index, sim->events.now_ns + FAIL_NS);
	} else if (job->kind == JOB_REQUEST || sim->options.probe == STATION_PROBE_QUEUED) {
		station_arrive(&sim->stations, job->server, index);
	} else {
		answer(sim, index,
			station_probe(&sim->stations, job->server, sim->options.probe,
				sim->options.probe_cost_ns));
	}
}

static void worker_end(struct sim *sim, const struct event *event)
{
	uint32_t index = station_end(&sim->stations, event);

	if (index == JOB_NONE)
		return;
	if (sim_job(sim, index)->kind == JOB_REQUEST)
		sim->stations.items[event->who].assigned--;
	answer(sim, index, sim->events.now_ns);
}

static void handle(struct sim *sim, const struct event *event)
{
	switch ((enum sim_event)event->kind) {
	case SIM_ARRIVAL:
		arrival(sim, event);
		break;
	case SIM_AT_SERVER:
		at_server(sim, event->who);
		break;
	case SIM_WORKER_END:
		worker_end(sim, event);
		break;
	case SIM_AT_CLIENT:
		caller_answer(sim, event->who);
		break;
	case SIM_PROBE_LATE:
		caller_probe_late(sim, event);
		break;
	case SIM_DEADLINE:
		caller_deadline(sim, event);
		break;
	case SIM_CLIENT_TIMER:
		caller_timer(sim, event->who);
		break;
	default:
		weather_event(sim, event);
	}
}

static double wall_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int sim_run(struct sim *sim)
{
	struct event event;
	double begun_s = wall_s();

	weather_begin(sim);
	while (sim->ended < sim->options.requests && events_next(&sim->events, &event)) {
		handle(sim, &event);
		sim->event_count++;
		if (sim->out_of_memory || sim->events.failed)
			return -ENOMEM;
	}
	FM_ASSERT_EQ(sim->ended, sim->options.requests);
	sim->spent_s = wall_s() - begun_s;
	return 0;
}

void sim_latency(struct sim *sim, uint32_t from, uint32_t to, struct sim_latency *latency)
{
	uint32_t *samples = sim->scratch;
	uint32_t count = 0;
	double sum = 0;

	for (uint32_t i = from; i < to && i < sim->options.requests; i++) {
		samples[count++] = sim->latency_ns[i];
		sum += sim->latency_ns[i];
	}
	*latency = (struct sim_latency){.count = count,
		.mean_ns = count > 0 ? sum / count : 0,
		.p50_ns = measure_quantile(samples, count, 0.5),
		.p90_ns = measure_quantile(samples, count, 0.9),
		.p99_ns = measure_quantile(samples, count, 0.99),
		.p999_ns = measure_quantile(samples, count, 0.999),
		.max_ns = measure_quantile(samples, count, 1)};
}

static void add_stats(struct balancer_stats *sum, const struct balancer_stats *one)
{
	sum->picks += one->picks;
	sum->sends += one->sends;
	sum->asks += one->asks;
	sum->parks += one->parks;
	sum->nobody += one->nobody;
	sum->probes += one->probes;
	sum->samples += one->samples;
	sum->silences += one->silences;
	sum->piggybacks += one->piggybacks;
	sum->picks_blind += one->picks_blind;
	sum->ejections += one->ejections;
	sum->restarts += one->restarts;
	sum->probes_per_rpc += one->probes_per_rpc;
	sum->ejected += one->ejected;
}

static void add_servers(struct sim *sim, struct sim_result *result)
{
	uint64_t probes = 0, probe_ns = 0, busy_ns = 0, requests = 0, most = 0;
	double servers = sim->options.servers, workers_s;

	for (uint32_t i = 0; i < sim->options.servers; i++) {
		const struct station *station = &sim->stations.items[i];

		probes += station->probes;
		probe_ns += station->probe_ns;
		busy_ns += station->busy_ns;
		requests += station->requests;
		most = station->requests > most ? station->requests : most;
	}
	workers_s = servers * sim->options.workers * (double)sim->events.now_ns / 1e9;
	result->utilisation = (double)busy_ns / 1e9 / workers_s;
	result->probe_share = (double)probe_ns / 1e9 / workers_s;
	result->probes_per_rpc = (double)probes / sim->options.requests;
	result->probes_per_server_s = (double)probes / servers / result->seconds;
	result->requests_most = (double)most * servers / (double)requests;
}

void sim_result(struct sim *sim, struct sim_result *result)
{
	*result = (struct sim_result){.failed = sim->failed,
		.events = sim->event_count,
		.seconds = (double)sim->last_arrival_ns / 1e9,
		.seconds_spent = sim->spent_s};
	sim_latency(sim, (uint32_t)(sim->options.warm_share * sim->options.requests),
		sim->options.requests, &result->latency);
	add_servers(sim, result);
	if (sim->looks > 0) {
		result->queue_mean = sim->look_mean / sim->looks;
		result->queue_most = sim->look_most / sim->looks;
	}
	for (uint32_t i = 0; i < sim->options.clients; i++) {
		struct balancer_stats stats;
		struct tuner *tuner = balancer_tuner(sim->clients[i].balancer);

		balancer_stats(sim->clients[i].balancer, &stats);
		add_stats(&result->stats, &stats);
		result->rate_mean +=
			(tuner ? tuner_center(tuner) : stats.probes_per_rpc) / sim->options.clients;
	}
}

double sim_arrival_s(const struct sim *sim, uint32_t request)
{
	return request < sim->options.requests ? sim->arrival_s[request / SIM_ARRIVALS_KEPT] : 0;
}

struct balancer *sim_balancer(struct sim *sim, uint32_t client)
{
	return sim->clients[client].balancer;
}

int sim_measure(const struct sim_options *options, struct sim_result *result, const char **why)
{
	struct sim *sim;
	int rc = sim_open(options, &sim, why);

	if (rc < 0)
		return rc;
	rc = sim_run(sim);
	if (rc == 0)
		sim_result(sim, result);
	sim_close(sim);
	return rc;
}
