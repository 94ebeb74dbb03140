/*
 * lb/sim/sim.h: a simulated fleet: clients that spread requests over servers with the very balancer
 * (lb/balancer.h, lb/tuner.h) that real channels use.
 *
 * Open loop: requests arrive at the clients whatever becomes of the earlier ones; latency counts
 * from there to the answer. All of it is one thread and depends on the seed only; the streams of
 * arrivals and of service times do not depend on the policy. Callers: sim_test.c, apps/lbsim*.c.
 *
 * Invariants:
 * 1. A run with the same options and seed gives the same result on every machine of one libm.
 * 2. When a run has ended, every request has ended once, and no balancer has requests in flight.
 */
#ifndef FM_LB_SIM_SIM_H
#define FM_LB_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "lb/balancer.h"
#include "lb/sim/chance.h"
#include "lb/sim/station.h"

#define SIM_CLIENTS_MAX 4096u
#define SIM_REQUESTS_MAX (1u << 28)
#define SIM_CHANGES_MAX 16

enum sim_change_kind {
	SIM_LOAD,    /* value: offered load from now on */
	SIM_SERVICE, /* value: enum chance_service */
	SIM_SLOW,    /* value: share of the servers that now run at speed 1/slow_factor */
};

struct sim_change {
	uint32_t at_request; /* with this arrival */
	enum sim_change_kind kind;
	double value;
};

struct sim_options {
	/* What the clients run; servers, clients, seed, service_ns and oracle are filled in here.
	 */
	struct balancer_options balancer;
	uint32_t servers, workers, clients;
	uint32_t requests;
	double warm_share; /* of the requests, at the beginning, that are not measured */
	double load;       /* offered, relative to what all servers can do at speed 1 */
	enum chance_service service;
	uint64_t service_ns; /* mean */
	uint64_t network_ns; /* one way */
	uint64_t jitter_ns;  /* mean of an exponential delay added to each way; 0: none */
	uint64_t quantum_ns, switch_ns;
	enum station_probe probe;
	uint64_t probe_cost_ns;
	uint64_t probe_timeout_ns; /* 0: 1 ms */
	double probe_loss;         /* share of the probes that get no answer */
	bool bare_replies;         /* replies do not carry the server's load: probes alone do */
	uint64_t deadline_ns;      /* of requests; 0: none */
	double burst_factor; /* arrivals while a burst lasts, relative to those without; <= 1: none
			      */
	uint64_t burst_ns, calm_ns; /* mean lengths */
	double slow_share, slow_factor;
	uint32_t degraded;       /* servers at speed 1/16 */
	double antagonist_share; /* servers of which another program takes antagonist_part, */
	double antagonist_part;  /* every other antagonist_ns, each with a phase of its own */
	uint64_t antagonist_ns;
	uint32_t failing;    /* servers that answer every request at once with an error */
	uint32_t restarts;   /* servers that die in the middle of the run */
	uint64_t restart_ns; /* how long they are away */
	struct sim_change changes[SIM_CHANGES_MAX];
	unsigned change_count;
	uint64_t seed;
};

struct sim_latency {
	uint32_t count;
	double mean_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns;
};

struct sim_result {
	struct sim_latency latency; /* of all that were measured, failed ones too */
	uint64_t failed;            /* requests that ended otherwise than well, measured or not */
	uint64_t events;
	double seconds;        /* simulated, from the first arrival to the last */
	double utilisation;    /* share of the workers' time that was busy, probes included */
	double probes_per_rpc; /* that reached servers */
	double probe_share;    /* of the workers' time, that probes took */
	double probes_per_server_s;
	double requests_most; /* at one server, relative to the mean */
	double queue_mean,
		queue_most;   /* requests at a server, over time: mean; mean of the largest */
	double rate_mean;     /* f at the end, over the clients */
	double seconds_spent; /* wall clock */
	struct balancer_stats stats; /* summed over the clients */
};

struct sim;

/* Plain options: 32x1, 32 clients, exponential 10 us, network 5 us, eBPF probes of 0.1 us. */
void sim_defaults(struct sim_options *options);
/* 0, -EINVAL (*why is one line), -ENOMEM. */
int sim_open(const struct sim_options *options, struct sim **sim, const char **why) FM_MUST_USE;
void sim_close(struct sim *sim);
/* To the last request's end. 0 or -ENOMEM. */
int sim_run(struct sim *sim) FM_MUST_USE;
void sim_result(struct sim *sim, struct sim_result *result);
/* Of the requests number from..to-1 alone. */
void sim_latency(struct sim *sim, uint32_t from, uint32_t to, struct sim_latency *latency);
/* When a request arrived, in seconds. Only every 1024th is kept; this is the one before. */
double sim_arrival_s(const struct sim *sim, uint32_t request);
struct balancer *sim_balancer(struct sim *sim, uint32_t client);
/* open, run, result, close. */
int sim_measure(
	const struct sim_options *options, struct sim_result *result, const char **why) FM_MUST_USE;

#endif
