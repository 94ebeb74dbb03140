/*
 * lb/policy.h: the inside of a balancer and what a policy is: one const table of operations.
 *
 * Included by balancer.c and the policies (policy_*.c) only. balancer.c does what is common to all
 * of them: health, trials, the pool of samples, own requests in flight, counters. A policy is asked
 * for a server only while at least one is usable.
 *
 * Invariants:
 * 1. A policy returns usable servers only (health_usable).
 * 2. No policy allocates after open, and none looks at all servers for an RPC, except jsq (by
 *    definition) and jbsq while servers are out.
 */
#ifndef FM_LB_POLICY_H
#define FM_LB_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "lb/balancer.h"
#include "lb/draw.h"
#include "lb/health.h"
#include "lb/pool.h"

struct policy {
	const char *name;
	bool needs_oracle;
	/* All may be NULL but pick. open fills in the defaults of its options. */
	int (*open)(struct balancer *balancer, const char **why);
	void (*close)(struct balancer *balancer);
	enum balancer_verdict (*pick)(
		struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick);
	uint32_t (*pick_asked)(
		struct balancer *balancer, uint64_t now_ns, const struct balancer_pick *pick);
	void (*sent)(struct balancer *balancer, uint64_t now_ns, uint32_t server);
	/* The pool has the reply's load already (for outcomes of status 0). */
	void (*done)(struct balancer *balancer, uint64_t now_ns, uint32_t server,
		const struct balancer_outcome *outcome);
	/* A probe's answer, already in the pool. */
	void (*sampled)(struct balancer *balancer, uint64_t now_ns, uint32_t server);
	/* What was known of the server holds no longer. */
	void (*forget)(struct balancer *balancer, uint32_t server);
	unsigned (*probes)(
		struct balancer *balancer, uint64_t now_ns, uint32_t *servers, unsigned max);
	uint64_t (*next_ns)(const struct balancer *balancer);
};

extern const struct policy policy_random, policy_rr, policy_least;
extern const struct policy policy_p2c;
extern const struct policy policy_prequal, policy_prequal_tuned;
extern const struct policy policy_jiq, policy_jbsq, policy_c3, policy_jsq;
extern const struct policy policy_mew_fixed, policy_mew;

struct balancer {
	struct balancer_options options; /* 0 replaced by defaults */
	const struct policy *policy;
	void *state; /* the policy's */
	struct draw draw;
	struct health health;
	struct pool pool;
	uint32_t *in_flight; /* own, per server */
	struct tuner *tuner; /* mew's */
	struct balancer_stats stats;
	double mean_latency_ns; /* moving, of successes; 0: none yet */
};

/* A usable server, chosen for want of anything better. */
static inline uint32_t policy_blind(struct balancer *balancer, uint64_t now_ns)
{
	balancer->stats.picks_blind++;
	return health_draw(&balancer->health, &balancer->draw, now_ns);
}

static inline enum balancer_verdict policy_send(struct balancer_pick *pick, uint32_t server)
{
	pick->server = server;
	return LB_SEND;
}

/*
 * `count` different usable servers, uniformly; fewer when there are fewer. O(count^2): count is at
 * most LB_ASK_MAX or LB_PROBES_MAX.
 */
unsigned policy_draw_distinct(struct balancer *balancer, uint32_t *servers, unsigned count);

#endif
