/*
 * lb/policy_prequal.c: Prequal (Wydrowski et al., NSDI'24, section 4), asynchronous mode: hot-cold
 * lexicographic choice from a small pool of probe answers that are used up.
 *
 * Per query r_probe probes to servers drawn without replacement; an answer enters the pool of m
 * entries (one of the same server is replaced, else the oldest makes room). An entry leaves it by
 * age, by having been used b times, or because each query removes r_remove entries, alternately the
 * oldest and the worst. b = max(1, (1 + delta) / ((1 - m/n) r_probe - r_remove)), rounded at
 * random; without bound where the denominator is not positive. The chosen entry's RIF goes up by
 * one, for the request that is on its way. Fewer than two entries: a random server.
 *
 * Latency is what the server says of its queueing delay: the service itself is the same to all
 * entries. Piggybacked loads do not enter the pool, as in the paper. prequal-tuned is the same code
 * with numbers for microseconds (found with fm-lbsim): entries live for about five services instead
 * of a second, the pool is 4 instead of 16 (few and fresh: no herd), and requests in flight alone
 * decide. With heavy-tailed services a pool of 10 to 16 is better: options.pool_size.
 *
 * Invariants:
 * 1. At most one entry a server; `slots[server]` says where, or PREQUAL_NONE.
 * 2. entries[0..count) are in order of arrival, the oldest first.
 * 3. rif_counts[] counts the latest RIF of every server that answered a probe: the quantile is
 *    over servers, not entries, so that a hot one does not count twice.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/policy.h"

#define PREQUAL_POOL_MAX 64
#define PREQUAL_NONE UINT8_MAX
#define PREQUAL_RIF_MAX 1023 /* of the counts; more counts as this */
#define PREQUAL_POOL 16
#define PREQUAL_PROBES 3.0
#define PREQUAL_REMOVES 1.0
#define PREQUAL_REUSE_MAX 1e6
#define PREQUAL_DELTA 1.0
#define PREQUAL_QUANTILE 0.8408964152537146 /* 2^-0.25 */
#define PREQUAL_AGE_NS NS_PER_S
#define PREQUAL_TUNED_POOL 4
#define PREQUAL_TUNED_SERVICES 5
#define PREQUAL_TUNED_AGE_NS (50 * NS_PER_US)
#define PREQUAL_IDLE_NS NS_PER_MS /* without traffic, probes at most so often */
#define PREQUAL_POOL_MIN 2        /* fewer entries: random */

struct prequal_entry {
	uint64_t at_ns;
	uint32_t server;
	uint32_t rif; /* compensated */
	uint32_t latency_ns;
	uint32_t uses_left;
};

struct prequal {
	struct prequal_entry entries[PREQUAL_POOL_MAX];
	unsigned count, capacity;
	double reuse; /* b; 0: without bound */
	double probes_due;
	double removes_due;
	bool remove_worst; /* next time; else the oldest */
	double quantile;   /* below 0: requests in flight alone */
	uint64_t age_ns;
	uint64_t probed_ns;
	uint8_t *slots;
	uint16_t *rif_latest; /* + 1; 0: never answered */
	uint32_t rif_counts[PREQUAL_RIF_MAX + 1];
	uint32_t rif_total;
};

static double prequal_reuse(const struct balancer_options *options, unsigned capacity)
{
	double kept = 1.0 - (double)capacity / (double)options->servers;
	double gain = kept * options->probes_per_rpc - PREQUAL_REMOVES;

	/* what would be used a million times is as good as without bound, and rounds to no integer
	 */
	return gain * PREQUAL_REUSE_MAX <= 1 ? 0 : fmax(1.0, (1.0 + PREQUAL_DELTA) / gain);
}

static int prequal_open_with(struct balancer *balancer, uint64_t age_ns, double quantile)
{
	struct balancer_options *options = &balancer->options;
	struct prequal *prequal = calloc(1, sizeof(*prequal));

	balancer->state = prequal;
	if (prequal == NULL)
		return -ENOMEM;
	prequal->slots = malloc(options->servers);
	prequal->rif_latest = calloc(options->servers, sizeof(*prequal->rif_latest));
	if (prequal->slots == NULL || prequal->rif_latest == NULL)
		return -ENOMEM;
	memset(prequal->slots, PREQUAL_NONE, options->servers);
	if (options->probes_per_rpc == 0)
		options->probes_per_rpc = PREQUAL_PROBES;
	prequal->capacity = options->pool_size == 0 ? PREQUAL_POOL : options->pool_size;
	prequal->age_ns = options->sample_age_ns == 0 ? age_ns : options->sample_age_ns;
	prequal->quantile = options->hot_quantile == 0 ? quantile : options->hot_quantile;
	prequal->reuse = prequal_reuse(options, prequal->capacity);
	return 0;
}

static int prequal_open(struct balancer *balancer, const char **why)
{
	if (balancer->options.pool_size > PREQUAL_POOL_MAX) {
		if (why != NULL)
			*why = "pool size: must be 0..64";
		return -EINVAL;
	}
	return prequal_open_with(balancer, PREQUAL_AGE_NS, PREQUAL_QUANTILE);
}

static int prequal_open_tuned(struct balancer *balancer, const char **why)
{
	uint64_t age_ns = balancer->options.service_ns * PREQUAL_TUNED_SERVICES;

	if (balancer->options.pool_size > PREQUAL_POOL_MAX)
		return prequal_open(balancer, why);
	if (balancer->options.pool_size == 0)
		balancer->options.pool_size = PREQUAL_TUNED_POOL;
	return prequal_open_with(balancer, age_ns == 0 ? PREQUAL_TUNED_AGE_NS : age_ns, -1);
}

static void prequal_close(struct balancer *balancer)
{
	struct prequal *prequal = balancer->state;

	if (prequal == NULL)
		return;
	free(prequal->slots);
	free(prequal->rif_latest);
}

static void prequal_remove(struct prequal *prequal, unsigned index)
{
	prequal->slots[prequal->entries[index].server] = PREQUAL_NONE;
	prequal->count--;
	memmove(&prequal->entries[index], &prequal->entries[index + 1],
		(prequal->count - index) * sizeof(prequal->entries[0]));
	for (unsigned i = index; i < prequal->count; i++)
		prequal->slots[prequal->entries[i].server] = (uint8_t)i;
}

static void prequal_expire(struct prequal *prequal, uint64_t now_ns)
{
	unsigned old = 0;

	while (old < prequal->count && now_ns - prequal->entries[old].at_ns > prequal->age_ns)
		prequal->slots[prequal->entries[old++].server] = PREQUAL_NONE;
	if (old == 0)
		return;
	prequal->count -= old;
	memmove(prequal->entries, prequal->entries + old,
		prequal->count * sizeof(prequal->entries[0]));
	for (unsigned i = 0; i < prequal->count; i++)
		prequal->slots[prequal->entries[i].server] = (uint8_t)i;
}

/* theta: a RIF above it is hot. The smallest value that at least `quantile` of servers keep to. */
static uint32_t prequal_threshold(const struct prequal *prequal)
{
	double wanted = prequal->quantile * (double)prequal->rif_total;
	uint32_t seen = 0;

	for (uint32_t rif = 0; rif < PREQUAL_RIF_MAX; rif++) {
		seen += prequal->rif_counts[rif];
		if ((double)seen >= wanted)
			return rif;
	}
	return UINT32_MAX; /* counts cannot tell those above apart: nobody is hot */
}

static bool prequal_hot(
	const struct prequal *prequal, const struct prequal_entry *it, uint32_t theta)
{
	return prequal->quantile < 0 || it->rif > theta;
}

/* Is `a` the better place (for the choice), or the worse one (for removal, the other way round)? */
static bool prequal_better(const struct prequal *prequal, const struct prequal_entry *a,
	const struct prequal_entry *b, uint32_t theta)
{
	bool a_hot = prequal_hot(prequal, a, theta), b_hot = prequal_hot(prequal, b, theta);

	if (a_hot != b_hot)
		return b_hot;
	return a_hot ? a->rif < b->rif : a->latency_ns < b->latency_ns;
}

static void prequal_remove_some(struct prequal *prequal)
{
	uint32_t theta = prequal_threshold(prequal);
	unsigned worst;

	for (prequal->removes_due += PREQUAL_REMOVES; prequal->removes_due >= 1;
		prequal->removes_due--) {
		if (prequal->count == 0)
			continue;
		worst = 0;
		if (prequal->remove_worst)
			for (unsigned i = 1; i < prequal->count; i++)
				if (prequal_better(prequal, &prequal->entries[worst],
					    &prequal->entries[i], theta))
					worst = i;
		prequal_remove(prequal, worst);
		prequal->remove_worst = !prequal->remove_worst;
	}
}

static enum balancer_verdict prequal_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct prequal *prequal = balancer->state;
	unsigned best = PREQUAL_NONE;
	struct prequal_entry *entry;
	uint32_t theta;

	prequal_expire(prequal, now_ns);
	theta = prequal_threshold(prequal);
	for (unsigned i = 0; prequal->count >= PREQUAL_POOL_MIN && i < prequal->count; i++) {
		entry = &prequal->entries[i];
		if (best != PREQUAL_NONE &&
			!prequal_better(prequal, entry, &prequal->entries[best], theta))
			continue;
		if (health_admits(&balancer->health, &balancer->draw, now_ns, entry->server))
			best = i;
	}
	if (best == PREQUAL_NONE)
		return policy_send(pick, policy_blind(balancer, now_ns));
	entry = &prequal->entries[best];
	pick->server = entry->server;
	if (prequal->reuse > 0 && --entry->uses_left == 0)
		prequal_remove(prequal, best);
	return LB_SEND;
}

static void prequal_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	struct prequal *prequal = balancer->state;

	(void)now_ns;
	if (prequal->slots[server] != PREQUAL_NONE)
		prequal->entries[prequal->slots[server]].rif++;
	prequal_remove_some(prequal);
	prequal->probes_due += balancer->options.probes_per_rpc;
	prequal->probes_due = FM_MIN(prequal->probes_due, (double)LB_PROBES_MAX);
}

static uint64_t prequal_next_ns(const struct balancer *balancer)
{
	const struct prequal *prequal = balancer->state;

	return prequal->probed_ns + FM_MAX(prequal->age_ns, PREQUAL_IDLE_NS);
}

static unsigned prequal_probes(
	struct balancer *balancer, uint64_t now_ns, uint32_t *servers, unsigned max)
{
	struct prequal *prequal = balancer->state;
	unsigned count = draw_round(&balancer->draw, prequal->probes_due);

	prequal->probes_due = 0;
	/* nothing to do: entries must not all grow old */
	if (count == 0 && now_ns >= prequal_next_ns(balancer))
		count = PREQUAL_POOL_MIN;
	count = FM_MIN(count, max);
	if (count > 0)
		prequal->probed_ns = now_ns;
	return policy_draw_distinct(balancer, servers, count);
}

static void prequal_count_rif(struct prequal *prequal, uint32_t server, uint32_t rif)
{
	uint16_t *latest = &prequal->rif_latest[server];

	if (*latest != 0)
		prequal->rif_counts[*latest - 1]--;
	else
		prequal->rif_total++;
	*latest = (uint16_t)(FM_MIN(rif, PREQUAL_RIF_MAX) + 1);
	prequal->rif_counts[*latest - 1]++;
}

static void prequal_sampled(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	const struct sample *sample = &balancer->pool.samples[server];
	struct prequal *prequal = balancer->state;

	prequal_count_rif(prequal, server, sample->in_flight);
	if (prequal->slots[server] != PREQUAL_NONE)
		prequal_remove(prequal, prequal->slots[server]);
	if (prequal->count == prequal->capacity)
		prequal_remove(prequal, 0);
	prequal->slots[server] = (uint8_t)prequal->count;
	prequal->entries[prequal->count++] = (struct prequal_entry){.at_ns = now_ns,
		.server = server,
		.rif = sample->in_flight,
		.latency_ns = sample->delay_ns,
		.uses_left = FM_MAX(1u, draw_round(&balancer->draw, prequal->reuse))};
}

static void prequal_forget(struct balancer *balancer, uint32_t server)
{
	struct prequal *prequal = balancer->state;

	if (prequal->slots[server] != PREQUAL_NONE)
		prequal_remove(prequal, prequal->slots[server]);
}

const struct policy policy_prequal = {.name = "prequal",
	.open = prequal_open,
	.close = prequal_close,
	.pick = prequal_pick,
	.sent = prequal_sent,
	.sampled = prequal_sampled,
	.forget = prequal_forget,
	.probes = prequal_probes,
	.next_ns = prequal_next_ns};

const struct policy policy_prequal_tuned = {.name = "prequal-tuned",
	.open = prequal_open_tuned,
	.close = prequal_close,
	.pick = prequal_pick,
	.sent = prequal_sent,
	.sampled = prequal_sampled,
	.forget = prequal_forget,
	.probes = prequal_probes,
	.next_ns = prequal_next_ns};
