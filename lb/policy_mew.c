/*
 * lb/policy_mew.c: Mew: pairs of probes off the critical path, the smallest predicted load wins.
 *
 * (research/load-balancing.md 1.4; nothing of Mew itself is published but a paragraph.)
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "lb/policy.h"

#define MEW_PAIR 2
#define MEW_SCAN_MAX 32 /* samples looked at for an RPC, newest first */
#define MEW_RATE_DEFAULT 2.0
#define MEW_AGE_LATENCIES 3.0 /* tau in mean latencies when nothing better is known */
#define MEW_AGE_FIRST_NS NS_PER_MS
#define MEW_AGE_SERVICES 4
#define MEW_PAIRS_WAITING_MAX (LB_PROBES_MAX / MEW_PAIR)

struct mew {
	unsigned pairs_waiting; /* to be probed at the next balancer_probes */
};

static int mew_open(struct balancer *balancer, const char **why)
{
	(void)why;
	balancer->state = calloc(1, sizeof(struct mew));
	if (balancer->state == NULL)
		return -ENOMEM;
	if (balancer->options.probes_per_rpc == 0)
		balancer->options.probes_per_rpc = MEW_RATE_DEFAULT;
	return 0;
}

static uint64_t mew_age_ns(const struct balancer *balancer)
{
	if (balancer->options.sample_age_ns != 0)
		return balancer->options.sample_age_ns;
	if (balancer->mean_latency_ns == 0)
		return MEW_AGE_FIRST_NS;
	return (uint64_t)(MEW_AGE_LATENCIES * balancer->mean_latency_ns);
}

/* How many requests are before a new one there, as far as can be told. */
static uint32_t mew_load(const struct balancer *balancer, const struct sample *sample, uint32_t own)
{
	(void)balancer;
	return FM_MAX(sample->in_flight + sample->own_sends, own);
}

static enum balancer_verdict mew_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	uint64_t age_ns = mew_age_ns(balancer), since_ns = now_ns - FM_MIN(now_ns, age_ns);
	struct pool *pool = &balancer->pool;
	uint32_t best = HEALTH_NOBODY, best_load = UINT32_MAX, load, scanned = 0;
	const struct sample *sample;

	for (uint32_t i = pool->newest; i != POOL_NOBODY && scanned < MEW_SCAN_MAX;
		i = sample->older, scanned++) {
		sample = &pool->samples[i];
		if (sample->at_ns < since_ns)
			break;
		load = mew_load(balancer, sample, balancer->in_flight[i]);
		if (load < best_load &&
			health_admits(&balancer->health, &balancer->draw, now_ns, i)) {
			best = i;
			best_load = load;
		}
	}
	if (best == HEALTH_NOBODY)
		best = policy_blind(balancer, now_ns);
	return policy_send(pick, best);
}

static void mew_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	struct mew *mew = balancer->state;
	double pairs = balancer->options.probes_per_rpc / MEW_PAIR;

	(void)now_ns;
	(void)server;
	mew->pairs_waiting += draw_round(&balancer->draw, pairs);
	mew->pairs_waiting = FM_MIN(mew->pairs_waiting, MEW_PAIRS_WAITING_MAX);
}

static unsigned mew_probes(
	struct balancer *balancer, uint64_t now_ns, uint32_t *servers, unsigned max)
{
	struct mew *mew = balancer->state;
	unsigned count = FM_MIN(mew->pairs_waiting * MEW_PAIR, max);

	(void)now_ns;
	mew->pairs_waiting = 0;
	return policy_draw_distinct(balancer, servers, count);
}

const struct policy policy_mew_fixed = {.name = "mew-fixed",
	.open = mew_open,
	.pick = mew_pick,
	.sent = mew_sent,
	.probes = mew_probes};
