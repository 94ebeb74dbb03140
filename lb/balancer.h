/*
 * lb/balancer.h: which server gets the next RPC, and which servers to ask how busy they are.
 *
 * A balancer is a policy working on what one client knows of its servers: a pool of samples, its
 * own requests in flight, each server's health. It does no I/O, reads no clock, draws from its own
 * seeded generator: the channel (lb/channel.c), the gRPC side (lb/ctl_balancer.c), the agent and
 * the simulator (lb/sim) all drive the very same code. Not thread-safe: one owner at a time.
 *
 * One RPC's life:
 *
 *     balancer_pick --> LB_SEND server ------------------------> balancer_sent -> balancer_done
 *        |    ^
 *        |    +-- again after every balancer_done -- LB_PARK (policies with a queue of their own)
 *        |
 *        +--> LB_ASK asked[] -- ask them; balancer_sampled for each answer, then, when all have
 *                               answered or ask_timeout_ns is over: balancer_pick_asked -> LB_SEND
 *
 * and beside it, off the critical path, after every LB_SEND (and at balancer_next_ns at the
 * latest): balancer_probes() names servers to ask; the answers come through balancer_sampled,
 * silence through balancer_silent.
 *
 * Invariants:
 * 1. LB_SEND never names a server that is ejected or draining while another one is not.
 * 2. Own requests in flight go back to 0 when every balancer_sent has had its balancer_done,
 *    whatever the outcome (cancelled ones too).
 * 3. A sample is used only while it is younger than the policy's age, and only for the epoch of
 *    the server that gave it.
 * 4. Every table is sized at open.
 */
#ifndef FM_LB_BALANCER_H
#define FM_LB_BALANCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

#define LB_SERVERS_MAX 4096
#define LB_ASK_MAX 16    /* servers asked for one RPC, synchronously */
#define LB_PROBES_MAX 16 /* servers probed at once, asynchronously */

struct balancer;

/* All in one struct so that a policy is its name and these numbers; 0 is the policy's default. */
struct balancer_options {
	/*
	 * random, rr, least (fewer own requests of two), p2c (asks two, for every RPC), prequal
	 * (the paper's parameters), prequal-tuned, jiq, jbsq, c3, jsq (needs the oracle: simulator
	 * only), mew-fixed, mew (adaptive). balancer_policy_names() lists them.
	 */
	const char *policy;
	unsigned servers;      /* how many: 1..LB_SERVERS_MAX */
	unsigned clients;      /* how many clients share them, where a policy wants to know (c3) */
	uint64_t seed;         /* 0: drawn from the machine */
	double probes_per_rpc; /* f: mew-fixed, prequal (r_probe; paper 3) */
	double probes_per_rpc_max; /* mew: the tuner's upper end; default 16 */
	uint64_t sample_age_ns;    /* tau: mew; prequal's age limit (paper 1 s) */
	/* mew: now_ns + this is a clock that the clients share: see tuner_options. */
	int64_t clock_offset_ns;
	unsigned pool_size;      /* prequal's m (paper 16) */
	double hot_quantile;     /* prequal's Q_RIF (paper 2^-0.25); below 0: RIF only */
	unsigned server_slots;   /* jbsq's n: outstanding per server */
	uint64_t service_ns;     /* mean service time where known; 0: learned from replies */
	unsigned server_workers; /* workers per server where known; 0: learned, at first 1 */
	uint64_t ask_timeout_ns; /* p2c; default 1 ms */
	unsigned eject_failures; /* in a row; default 5 */
	uint64_t eject_ns;       /* first pause, doubled each time up to 64x; default 1 s */
	uint64_t slow_start_ns;  /* a server that comes back gets its share slowly; default 1 s */
	uint32_t (*oracle)(void *context, uint32_t server); /* true queue length now: jsq */
	void *oracle_context;
};

enum balancer_verdict {
	LB_SEND, /* pick.server */
	LB_ASK,  /* pick.asked[0..asked_count) */
	LB_PARK, /* every server has its fill: keep the RPC and pick again after the next done */
	/* Fail the RPC. Not while there is a server: when all are out, the one that was tried
	 * longest ago is tried, so that the first to come back is found by the next RPCs. */
	LB_NOBODY,
};

struct balancer_pick {
	uint32_t server;
	uint32_t asked[LB_ASK_MAX];
	unsigned asked_count;
};

/* 0, -EINVAL (unknown policy or numbers out of bounds; *why, when not NULL, becomes one line) or
 * -ENOMEM. */
int balancer_open(const struct balancer_options *options, struct balancer **balancer,
	const char **why) FM_MUST_USE;
void balancer_close(struct balancer *balancer);
/* "random, rr, ...": for messages and --help. */
const char *balancer_policy_names(void);
/* Does the policy exist, and does it work without an oracle? */
bool balancer_policy_known(const char *name, bool *needs_oracle);

enum balancer_verdict balancer_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick);
/* After LB_ASK, with the samples that came. Never LB_ASK again. */
enum balancer_verdict balancer_pick_asked(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick);

/* The RPC left for this server. */
void balancer_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server);

struct balancer_outcome {
	/*
	 * 0, or why it failed. -ECANCELED: the caller's doing, says nothing of the server. -EBUSY:
	 * refused for overload; the server lives, but gets less. Anything else counts towards its
	 * ejection: pass 0 for errors that are a handler's ordinary answer.
	 */
	int status;
	uint64_t latency_ns;     /* from the caller's intent to its end */
	const struct load *load; /* from the reply; NULL: none came */
};
void balancer_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome);

/* Servers to be probed now, without anybody waiting; 0..LB_PROBES_MAX. Counts as sent. */
unsigned balancer_probes(
	struct balancer *balancer, uint64_t now_ns, uint32_t servers[LB_PROBES_MAX]);
/* When balancer_probes or health wants to be asked again even without traffic; CLOCK_NEVER_NS. */
uint64_t balancer_next_ns(const struct balancer *balancer);
/* An answer to a probe (synchronous or not). LOAD_UNHEALTHY counts as a failure of the server. */
void balancer_sampled(
	struct balancer *balancer, uint64_t now_ns, uint32_t server, const struct load *load);
/* A probe that was not answered in time. */
void balancer_silent(struct balancer *balancer, uint64_t now_ns, uint32_t server);

/* Counters since open; probes include asked ones. */
struct balancer_stats {
	uint64_t picks, sends, asks, parks, nobody;
	uint64_t probes, samples, silences, piggybacks;
	uint64_t picks_blind; /* chosen at random for want of usable samples */
	uint64_t ejections, restarts;
	double probes_per_rpc; /* f at the moment */
	uint32_t ejected;      /* servers out at the moment */
};
void balancer_stats(const struct balancer *balancer, struct balancer_stats *stats);
/* Own requests in flight at one server; invariant 2. */
uint32_t balancer_in_flight(const struct balancer *balancer, uint32_t server);
/* The adaptive policy's tuner, for its trace; NULL for the others. */
struct tuner;
struct tuner *balancer_tuner(struct balancer *balancer);

#endif
