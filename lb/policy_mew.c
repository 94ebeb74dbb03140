/*
 * lb/policy_mew.c: Mew: pairs of probes off the critical path, the smallest predicted load wins.
 *
 * Of Mew itself only a paragraph is published (Zhou's research statement; the ideas: queueing at
 * the server as the signal, probes answered in the kernel, probing just often enough, the rate
 * found by descent on the tail). The rest is ours, found with fm-lbsim (docs/load-balancing.md):
 *
 * Probing: each RPC fires on average f/2 pairs of probes at servers drawn at random, after it was
 * sent. Replies refresh samples for nothing.
 *
 * Choice: among the newest MEW_SCAN_MAX samples younger than tau the least predicted load, of equal
 * ones the newest. Few and fresh: with all that a client ever heard, everybody would find the same
 * idle servers (the herd). An entry is not used up but counted up, by own requests sent since.
 *
 * Predicted load, in requests: what the server said it has in flight, fading with age towards what
 * an unknown server is taken for (MEW_UNKNOWN times the fleet's mean: a little worse than it is);
 * own ones sent since; and MEW_OWN for each own request that is there now: a request of ours that
 * is still out is news that no sample has, and spreading one's own requests evens out the arrivals
 * at every server. One more or less for a server that is slower or faster to us than the mean. If
 * the best is worse than an unknown one, a few more servers are looked at in turn.
 *
 * The queueing delay that servers report is not part of it: whatever weight it was given, together
 * with the requests in flight it made the tail longer, because it is the past of a queue whose
 * present is known.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "lb/policy.h"
#include "lb/tuner.h"

#define MEW_SCAN_MAX 16
#define MEW_OWN 4.0
#define MEW_UNKNOWN 3.0
#define MEW_TURNS 4            /* servers looked at in turn when no sample is good */
#define MEW_FADE_LATENCIES 0.5 /* a sample of that age is worth half */
#define MEW_SLOW 1.0           /* a server twice as slow: as one request more */
#define MEW_LATENCY_STEP 0.1f  /* of a server's mean latency: about its last 10 replies */
#define MEW_LATENCY_MAX 4.0    /* mean latencies; a longer one counts as this */
#define MEW_AGE_LATENCIES 16.0 /* tau in mean latencies */
#define MEW_PAIR 2
#define MEW_RATE_DEFAULT 1.0
#define MEW_AGE_FIRST_NS NS_PER_MS
#define MEW_PAIRS_WAITING_MAX (LB_PROBES_MAX / MEW_PAIR)
#define MEW_MEAN_STEP 0.01 /* of the fleet's mean: about the last 100 answers */

struct mew {
	uint32_t turn;          /* a position among the usable servers */
	unsigned pairs_waiting; /* to be probed at the next balancer_probes */
	double mean_load;       /* in flight at a server drawn at random */
	float *latency_ns;      /* moving mean of each server's replies here; 0: none yet */
};

static int mew_fixed_open(struct balancer *balancer, const char **why)
{
	struct mew *mew = calloc(1, sizeof(*mew));

	(void)why;
	balancer->state = mew;
	if (mew == NULL)
		return -ENOMEM;
	mew->latency_ns = calloc(balancer->options.servers, sizeof(*mew->latency_ns));
	if (mew->latency_ns == NULL)
		return -ENOMEM;
	mew->turn = draw_below(&balancer->draw, balancer->options.servers);
	if (balancer->options.probes_per_rpc == 0)
		balancer->options.probes_per_rpc = MEW_RATE_DEFAULT;
	return 0;
}

static void mew_close(struct balancer *balancer)
{
	struct mew *mew = balancer->state;

	if (mew != NULL)
		free(mew->latency_ns);
}

static int mew_open(struct balancer *balancer, const char **why)
{
	struct tuner_options options = {
		.rate_max = balancer->options.probes_per_rpc_max,
		.rate_start = balancer->options.probes_per_rpc,
		.clock_offset_ns = balancer->options.clock_offset_ns,
	};
	int error = mew_fixed_open(balancer, why);

	return error != 0 ? error : tuner_open(&options, &balancer->tuner);
}

static uint64_t mew_since_ns(const struct balancer *balancer, uint64_t now_ns)
{
	uint64_t age_ns = balancer->options.sample_age_ns;

	if (age_ns == 0)
		age_ns = balancer->mean_latency_ns == 0
				 ? MEW_AGE_FIRST_NS
				 : (uint64_t)(MEW_AGE_LATENCIES * balancer->mean_latency_ns);
	return now_ns - FM_MIN(now_ns, age_ns);
}

static double mew_unknown(const struct balancer *balancer)
{
	return MEW_UNKNOWN * ((const struct mew *)balancer->state)->mean_load;
}

/* How much slower the server is to us than the mean, in requests. */
static double mew_slowness(const struct balancer *balancer, uint32_t server)
{
	const struct mew *mew = balancer->state;
	double latency_ns = (double)mew->latency_ns[server];

	return latency_ns == 0 ? 0 : MEW_SLOW * (latency_ns / balancer->mean_latency_ns - 1);
}

/* What is left of a sample's news after that long. */
static double mew_fresh(const struct balancer *balancer, uint64_t age_ns)
{
	double half_ns = MEW_FADE_LATENCIES * balancer->mean_latency_ns;

	if (half_ns == 0)
		half_ns = MEW_AGE_FIRST_NS;
	return half_ns / (half_ns + (double)age_ns);
}

/* sample NULL: nothing is known of the server. */
static double mew_load(const struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct sample *sample)
{
	double own = (double)balancer->in_flight[server], said = mew_unknown(balancer);

	if (sample != NULL) {
		said += ((double)sample->in_flight - said) *
			mew_fresh(balancer, now_ns - sample->at_ns);
		said = FM_MAX(said + (double)sample->own_sends, own);
	}
	return said + MEW_OWN * own + mew_slowness(balancer, server);
}

struct mew_best {
	uint32_t server;
	double load;
};

static void mew_consider(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct sample *sample, struct mew_best *best)
{
	double load = mew_load(balancer, now_ns, server, sample);

	if (best->server != HEALTH_NOBODY && load >= best->load)
		return;
	if (health_admits(&balancer->health, &balancer->draw, now_ns, server))
		*best = (struct mew_best){server, load};
}

/*
 * A few servers beside what is known, cyclic rather than at random: it spaces out one's own
 * requests. The next time begins behind the one that was taken.
 */
static void mew_look_further(
	struct balancer *balancer, uint64_t now_ns, uint64_t since_ns, struct mew_best *best)
{
	struct health *health = &balancer->health;
	struct mew *mew = balancer->state;
	uint32_t turn = mew->turn, server;

	for (unsigned i = 0; i < MEW_TURNS; i++) {
		turn = turn + 1 < health->fit_count ? turn + 1 : 0;
		server = health->order[turn];
		mew_consider(balancer, now_ns, server, pool_get(&balancer->pool, server, since_ns),
			best);
		if (best->server == server)
			mew->turn = turn;
	}
	if (best->server == HEALTH_NOBODY) /* none was let through: any */
		best->server = health_draw(health, &balancer->draw, now_ns);
}

static enum balancer_verdict mew_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct mew_best best = {.server = HEALTH_NOBODY};
	uint64_t since_ns = mew_since_ns(balancer, now_ns);
	struct pool *pool = &balancer->pool;
	const struct sample *sample;
	uint32_t server = pool->newest;

	for (unsigned i = 0; i < MEW_SCAN_MAX && server != POOL_NOBODY; i++) {
		sample = &pool->samples[server];
		if (sample->at_ns < since_ns)
			break;
		mew_consider(balancer, now_ns, server, sample, &best);
		server = sample->older;
	}
	if (best.server != HEALTH_NOBODY && best.load <= mew_unknown(balancer))
		return policy_send(pick, best.server);
	balancer->stats.picks_blind++;
	mew_look_further(balancer, now_ns, since_ns, &best);
	return policy_send(pick, best.server);
}

static void mew_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	struct mew *mew = balancer->state;
	double rate = balancer->tuner != NULL ? tuner_rate(balancer->tuner)
					      : balancer->options.probes_per_rpc;

	(void)now_ns;
	(void)server;
	mew->pairs_waiting += draw_round(&balancer->draw, rate / MEW_PAIR);
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

static void mew_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	struct mew *mew = balancer->state;
	float *mean = &mew->latency_ns[server], latency_ns;

	(void)now_ns;
	if (outcome->status != 0)
		return;
	/* one request that is 200 times as long says nothing about its server */
	latency_ns = (float)FM_MIN(
		(double)outcome->latency_ns, MEW_LATENCY_MAX * balancer->mean_latency_ns);
	if (*mean == 0)
		*mean = (float)balancer->mean_latency_ns;
	*mean += MEW_LATENCY_STEP * (latency_ns - *mean);
}

static void mew_forget(struct balancer *balancer, uint32_t server)
{
	((struct mew *)balancer->state)->latency_ns[server] = 0;
}

static void mew_sampled(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	struct mew *mew = balancer->state;
	double load = (double)balancer->pool.samples[server].in_flight;

	(void)now_ns;
	mew->mean_load += MEW_MEAN_STEP * (load - mew->mean_load);
}

const struct policy policy_mew_fixed = {.name = "mew-fixed",
	.open = mew_fixed_open,
	.pick = mew_pick,
	.close = mew_close,
	.sent = mew_sent,
	.done = mew_done,
	.forget = mew_forget,
	.probes = mew_probes,
	.sampled = mew_sampled};

const struct policy policy_mew = {.name = "mew",
	.open = mew_open,
	.pick = mew_pick,
	.close = mew_close,
	.sent = mew_sent,
	.done = mew_done,
	.forget = mew_forget,
	.probes = mew_probes,
	.sampled = mew_sampled};
