/*
 * lb/sim/sim_parts.h: what sim.c (the run), sim_caller.c (clients) and sim_weather.c (what befalls
 * the servers) share. Nobody else includes it.
 */
#ifndef FM_LB_SIM_SIM_PARTS_H
#define FM_LB_SIM_SIM_PARTS_H

#include "lb/sim/sim.h"

enum sim_event {
	SIM_ARRIVAL,      /* serial */
	SIM_AT_SERVER,    /* who: job */
	SIM_WORKER_END,   /* who: server, what: worker */
	SIM_AT_CLIENT,    /* who: job */
	SIM_PROBE_LATE,   /* who: job, serial */
	SIM_DEADLINE,     /* who: job, serial */
	SIM_CLIENT_TIMER, /* who: client */
	SIM_BURST,        /* what: 1 it begins, 0 it ends */
	SIM_ANTAGONIST,   /* who: server, what: 1 it begins, 0 it ends */
	SIM_CRASH,        /* who: server */
	SIM_RESTART,      /* who: server */
	SIM_LOOK,         /* at the queues */
};

enum sim_lane { LANE_REQUESTS, LANE_ANSWERS, LANE_PROBE_LATE, LANE_DEADLINES };
_Static_assert(LANE_DEADLINES < EVENTS_LANES, "each constant delay has a lane");

enum sim_stream {
	STREAM_ARRIVALS,
	STREAM_CLIENTS,
	STREAM_SERVICE,
	STREAM_NETWORK,
	STREAM_WEATHER,
	SIM_STREAMS,
};

#define SIM_ARRIVALS_KEPT 1024u /* every so many requests, the time of arrival is kept */
#define SIM_LOOKS 512u          /* at the queues, during a run */

struct sim_client {
	struct balancer *balancer;
	uint32_t parked_head, parked_tail;
	uint64_t timer_ns; /* of its next SIM_CLIENT_TIMER; CLOCK_NEVER_NS: none */
};

struct sim {
	struct sim_options options;
	struct events events;
	struct stations stations;
	struct sim_client *clients;
	uint32_t *latency_ns, *scratch; /* by number of the request */
	double *arrival_s;
	struct chance chances[SIM_STREAMS];
	double gap_ns;     /* mean time between arrivals */
	double arrival_ns; /* of the next one; with its fraction, or large fleets get too many */
	bool bursting;
	uint32_t arrived, ended, arrival_serial, next_change;
	uint64_t failed, event_count, last_arrival_ns, look_ns;
	double looks, look_mean, look_most;
	double *speeds; /* of servers, without the antagonist */
	double spent_s;
	bool out_of_memory;
};

static inline struct job *sim_job(struct sim *sim, uint32_t index)
{
	return &sim->stations.jobs.items[index];
}

/* sim_caller.c */
void caller_request(struct sim *sim, uint32_t client, double work_ns);
void caller_answer(struct sim *sim, uint32_t job_index);
void caller_probe_late(struct sim *sim, const struct event *event);
void caller_deadline(struct sim *sim, const struct event *event);
void caller_timer(struct sim *sim, uint32_t client);

/* sim_weather.c */
void weather_begin(struct sim *sim);
void weather_event(struct sim *sim, const struct event *event);
void weather_change(struct sim *sim);
void weather_set_gap(struct sim *sim);
void weather_next_arrival(struct sim *sim, double after_ns);

#endif
