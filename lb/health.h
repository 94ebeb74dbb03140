/*
 * lb/health.h: which servers may get RPCs at all, and with what share.
 *
 *             eject_failures in a row                       pause over, or a new epoch seen
 *     FIT  ----------------------------->  EJECTED  ------------------------------>  HALF_OPEN
 *      |                                     ^  ^                                       |
 *      | says LOAD_DRAINING                  |  | fails: pause doubled             one RPC is sent
 *      v                     silent probes   |  +-------------------------------+       v
 *   DRAINING  -------------------------------+                                  +---- TRYING
 *      |                                                                                |
 *      +--> FIT (says so no more; a new epoch) <------- succeeds: slow start -----------+
 *
 * Used by balancer.c and, for drawing servers, by the policies.
 *
 * A server that fails fast looks idle to every policy. Three things keep it from becoming a
 * sinkhole: failures in a row eject it; a share of failures above the fleet's lowers its weight;
 * and a failed RPC's report is not believed (balancer.c).
 *
 * Invariants:
 * 1. usable = FIT. They are order[0..fit_count), all others are behind them.
 * 2. The others are in one list, the one touched longest ago first.
 * 3. Drawing is O(1); only a due trial looks through the list.
 */
#ifndef FM_LB_HEALTH_H
#define FM_LB_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "lb/draw.h"

#define HEALTH_DOUBLINGS_MAX 6 /* the longest pause is 64 times the first */
#define HEALTH_DRAW_TRIES 4    /* servers refused for their weight before one is taken anyhow */
#define HEALTH_WEIGHT_MIN 0.0625
#define HEALTH_NOBODY UINT32_MAX

enum health_state { HEALTH_FIT, HEALTH_DRAINING, HEALTH_EJECTED, HEALTH_HALF_OPEN, HEALTH_TRYING };

struct health_server {
	uint64_t since_ns;   /* of the state; FIT: when slow start began */
	uint64_t until_ns;   /* EJECTED, TRYING: when it is worth a (new) trial */
	uint64_t touched_ns; /* probed, tried or put into the list */
	uint32_t position;   /* in order[] */
	uint32_t next, previous;
	uint16_t failures; /* in a row */
	uint16_t silences; /* in a row */
	uint8_t state;
	uint8_t doublings;
	bool answers_probes;
	bool ejected_by_probes; /* a healthy answer is enough for a trial */
	bool slow_starting;
	float failed_share; /* moving */
	float weight;       /* from failed_share; 1: ordinary */
};

struct health {
	struct health_server *servers;
	uint32_t *order;
	uint32_t count, fit_count, ejected_count;
	uint32_t first, last; /* of the list */
	uint32_t listed;
	uint32_t eject_failures;
	uint64_t eject_ns, slow_start_ns;
	uint64_t trial_ns; /* no trial is due before this */
	uint64_t ejections;
	double failed_share; /* the fleet's */
};

int health_open(struct health *health, unsigned servers) FM_MUST_USE;
void health_close(struct health *health);

static inline bool health_usable(const struct health *health, uint32_t server)
{
	return health->servers[server].state == HEALTH_FIT;
}

/* Slow start and failures: shall this server be considered this time? Draws only if in doubt. */
bool health_admits_careful(
	struct health *health, struct draw *draw, uint64_t now_ns, uint32_t server);
static inline bool health_admits(
	struct health *health, struct draw *draw, uint64_t now_ns, uint32_t server)
{
	const struct health_server *it = &health->servers[server];

	if (fm_unlikely(it->state != HEALTH_FIT))
		return false;
	if (fm_likely(!it->slow_starting && it->weight >= 1.0f))
		return true;
	return health_admits_careful(health, draw, now_ns, server);
}

/* A usable server, uniformly but for weights; HEALTH_NOBODY when none is usable. */
uint32_t health_draw(struct health *health, struct draw *draw, uint64_t now_ns);
/* As above but not `other`, unless it is the only one. */
uint32_t health_draw_other(
	struct health *health, struct draw *draw, uint64_t now_ns, uint32_t other);
/* A server that is due for its trial: it becomes TRYING. HEALTH_NOBODY: none. */
uint32_t health_trial(struct health *health, uint64_t now_ns);
/* Nobody is usable: a draining one, else the one ejected or tried longest ago. */
uint32_t health_last_resort(struct health *health, uint64_t now_ns);

/* Outcomes of RPCs. A busy server refused for overload: alive, but no place for more. */
void health_success(struct health *health, uint64_t now_ns, uint32_t server, uint64_t latency_ns);
void health_failure(struct health *health, uint64_t now_ns, uint32_t server);
void health_busy(struct health *health, uint32_t server);
/* A trial that ended without a verdict: cancelled. */
void health_undecided(struct health *health, uint64_t now_ns, uint32_t server);

/* Answers to probes, and what replies say. */
void health_answered(struct health *health, uint64_t now_ns, uint32_t server, bool healthy);
void health_silent(struct health *health, uint64_t now_ns, uint32_t server);
void health_drains(struct health *health, uint64_t now_ns, uint32_t server, bool draining);
void health_restarted(struct health *health, uint64_t now_ns, uint32_t server);

/* Servers that are out and want to be asked: at most `max`. */
unsigned health_probes(struct health *health, uint64_t now_ns, uint32_t *servers, unsigned max);
uint64_t health_next_ns(const struct health *health);

#endif
