/*
 * lb/sim/station.h: one simulated server: workers, one queue before them, a load slot, and the
 * probes it has to answer. sim.c drives it: it hands jobs in, and gets them back when they are
 * done.
 *
 * Jobs are served first come first served; with a quantum, a job that has run for that long goes to
 * the end of the queue while others wait (a small quantum is processor sharing). A server may be
 * slow (speed below 1; may change at any time, for all its running jobs).
 *
 * A probe costs a worker time in one of three ways (enum station_probe). What eBPF or a thread of
 * higher priority takes is taken from a job that runs, whose end moves by as much.
 *
 * The load slot is written by load_publish and read by load_read, as a real server's is.
 *
 * Invariants:
 * 1. No worker is idle while a job waits.
 * 2. Every job that came in comes out once, or is dropped by station_stop.
 */
#ifndef FM_LB_SIM_STATION_H
#define FM_LB_SIM_STATION_H

#include <stdbool.h>
#include <stdint.h>

#include "lb/balancer.h"
#include "lb/sim/events.h"
#include "rpc/load.h"

#define STATION_WORKERS_MAX 64u
#define JOB_NONE UINT32_MAX

enum station_probe {
	STATION_PROBE_EBPF, /* answered on arrival; takes its cost from the worker it interrupts */
	STATION_PROBE_QUEUED, /* user space, by the workers: waits its turn among the requests */
	STATION_PROBE_THREAD, /* user space, by a thread of its own that may interrupt workers */
	STATION_PROBES,
};

enum job_kind { JOB_REQUEST, JOB_PROBE };

/* A request or a probe, from its caller's decision to its end. */
struct job {
	uint32_t next;   /* in a queue or in the list of free ones */
	uint32_t serial; /* tells it from the ones that had this place before */
	uint32_t client, server;
	uint32_t parent; /* probe: the request that waits for it; JOB_NONE: nobody does */
	uint32_t index;  /* request: its number */
	uint16_t asks;   /* request: probes it waits for */
	uint8_t kind;    /* enum job_kind */
	bool ended;      /* its caller has done with it */
	bool away;       /* on the network or in a server */
	bool parked;
	int status;
	uint64_t intent_ns, arrived_ns, work_ns; /* work_ns: what is left at speed 1 */
	struct load load;                        /* as its answer says */
	struct balancer_pick pick;               /* request: whom it asked */
};

/* Their table; addresses change when it grows. */
struct jobs {
	struct job *items;
	uint32_t count, capacity, free;
};

struct station_worker {
	uint32_t job, serial; /* serial: of the end that counts */
	uint64_t begun_ns, end_ns, stolen_ns,
		slice_ns; /* slice_ns: work of this turn, at speed 1 */
};

struct station {
	struct load_slot slot;
	struct station_worker *workers;
	uint32_t worker_count, idle, turn;
	uint32_t head, tail; /* of the queue */
	uint32_t waiting;    /* requests and probes in it */
	uint32_t assigned;   /* requests sent here and not yet done: what an oracle knows */
	uint32_t in_flight;  /* requests here, waiting or running */
	bool failing;        /* answers every request at once, with an error */
	bool down;           /* a crashed process: nothing comes back */
	double speed;
	uint64_t thread_free_ns; /* STATION_PROBE_THREAD: when its thread is free */
	uint64_t busy_ns, requests, probes, probe_ns;
	uint32_t delay_ns;
};

struct station_rules {
	uint64_t quantum_ns; /* 0: first come, first served to the end */
	uint64_t switch_ns;  /* what giving way costs */
	uint32_t event_kind; /* of a worker's end: who = server, what = worker */
};

/* The run they belong to. */
struct stations {
	struct station *items;
	uint32_t count;
	struct station_worker *workers;
	struct jobs jobs;
	struct events *events;
	struct station_rules rules;
};

int stations_open(struct stations *stations, uint32_t count, uint32_t workers) FM_MUST_USE;
void stations_close(struct stations *stations);

/* JOB_NONE: out of memory. */
uint32_t jobs_take(struct jobs *jobs);
void jobs_give(struct jobs *jobs, uint32_t job);

/* A job arrives and is begun or queued. */
void station_arrive(struct stations *stations, uint32_t server, uint32_t job);
/* A worker's event. The job that is done, or JOB_NONE. */
uint32_t station_end(struct stations *stations, const struct event *event);
/* A probe that does not queue arrives; cost at speed 1. When the answer leaves. */
uint64_t station_probe(
	struct stations *stations, uint32_t server, enum station_probe kind, uint64_t cost_ns);
/* What an answer that leaves now says. */
void station_load(struct stations *stations, uint32_t server, struct load *load);
void station_set_speed(struct stations *stations, uint32_t server, double speed);
/* The process dies with all that is in it. Jobs that their callers still wait for stay in the
 * table, with `away` false; the others are given back. */
void station_stop(struct stations *stations, uint32_t server);
void station_restart(struct stations *stations, uint32_t server, uint32_t epoch);

#endif
