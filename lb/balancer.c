/*
 * lb/balancer.c: what all policies have in common: see balancer.h for the life of an RPC.
 *
 * Invariants:
 * 1. pick: a due trial first, then the policy, and if nobody is usable a last resort: as long as
 *    there is one server, an RPC is sent somewhere, so LB_NOBODY is never the answer.
 * 2. A failed RPC's report of the load is not believed: what fails at once looks idle.
 */
#include "lb/balancer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/policy.h"
#include "lb/tuner.h"

#define LATENCY_MAX_NS (3600 * NS_PER_S)
#define LATENCY_STEP 0.02 /* of the moving mean: about the last 50 replies */

static const struct policy *const balancer_policies[] = {
	&policy_random,
	&policy_rr,
	&policy_least,
	&policy_p2c,
	&policy_prequal,
	&policy_prequal_tuned,
	&policy_jiq,
	&policy_jbsq,
	&policy_c3,
	&policy_jsq,
	&policy_mew_fixed,
	&policy_mew,
};

const char *balancer_policy_names(void)
{
	return "random, rr, least, p2c, prequal, prequal-tuned, jiq, jbsq, c3, jsq, mew-fixed, mew";
}

static const struct policy *balancer_find(const char *name)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(balancer_policies); i++)
		if (name != NULL && strcmp(balancer_policies[i]->name, name) == 0)
			return balancer_policies[i];
	return NULL;
}

bool balancer_policy_known(const char *name, bool *needs_oracle)
{
	const struct policy *policy = balancer_find(name);

	if (policy != NULL && needs_oracle != NULL)
		*needs_oracle = policy->needs_oracle;
	return policy != NULL;
}

static int balancer_refuse(const char **why, const char *reason)
{
	if (why != NULL)
		*why = reason;
	return -EINVAL;
}

/* Negative and NaN are refused by the same comparison. */
static bool balancer_number_ok(double value, double max)
{
	return value >= 0 && value <= max;
}

static int balancer_check(const struct balancer_options *options, const char **why)
{
	const struct policy *policy = balancer_find(options->policy);

	if (policy == NULL)
		return balancer_refuse(why, "no such policy");
	if (options->servers == 0 || options->servers > LB_SERVERS_MAX)
		return balancer_refuse(why, "servers: must be 1..4096");
	if (policy->needs_oracle && options->oracle == NULL)
		return balancer_refuse(why, "the policy needs an oracle: simulator only");
	if (!balancer_number_ok(options->probes_per_rpc, LB_PROBES_MAX))
		return balancer_refuse(why, "probes per RPC: must be 0..16");
	if (!balancer_number_ok(options->probes_per_rpc_max, LB_PROBES_MAX))
		return balancer_refuse(why, "most probes per RPC: must be 0..16");
	if (!(options->hot_quantile <= 1))
		return balancer_refuse(why, "hot quantile: at most 1");
	return 0;
}

static void balancer_defaults(struct balancer *balancer)
{
	struct balancer_options *options = &balancer->options;

	if (options->clients == 0)
		options->clients = 1;
	if (options->ask_timeout_ns == 0)
		options->ask_timeout_ns = NS_PER_MS;
	if (options->eject_failures == 0)
		options->eject_failures = 5;
	if (options->eject_ns == 0)
		options->eject_ns = NS_PER_S;
	if (options->slow_start_ns == 0)
		options->slow_start_ns = NS_PER_S;
	balancer->health.eject_failures = options->eject_failures;
	/* doubled up to 64 times: far from overflow */
	balancer->health.eject_ns = FM_MIN(options->eject_ns, UINT64_MAX >> 16);
	balancer->health.slow_start_ns = options->slow_start_ns;
}

static int balancer_seed(struct balancer *balancer)
{
	ssize_t got;

	balancer->draw.state = balancer->options.seed;
	if (balancer->options.seed != 0)
		return 0;
	got = getrandom(&balancer->draw.state, sizeof(balancer->draw.state), 0);
	return got == sizeof(balancer->draw.state) ? 0 : -EIO;
}

int balancer_open(
	const struct balancer_options *options, struct balancer **balancer_out, const char **why)
{
	struct balancer *balancer;
	int error = balancer_check(options, why);

	if (error != 0)
		return error;
	balancer = calloc(1, sizeof(*balancer));
	if (balancer == NULL)
		return -ENOMEM;
	balancer->options = *options;
	balancer->policy = balancer_find(options->policy);
	balancer->options.policy = balancer->policy->name;
	balancer_defaults(balancer);
	error = balancer_seed(balancer);
	if (error == 0)
		error = health_open(&balancer->health, options->servers);
	if (error == 0)
		error = pool_open(&balancer->pool, options->servers);
	if (error == 0) {
		balancer->in_flight = calloc(options->servers, sizeof(*balancer->in_flight));
		error = balancer->in_flight == NULL ? -ENOMEM : 0;
	}
	if (error == 0 && balancer->policy->open != NULL)
		error = balancer->policy->open(balancer, why);
	if (error != 0) {
		balancer_close(balancer);
		return error;
	}
	*balancer_out = balancer;
	return 0;
}

void balancer_close(struct balancer *balancer)
{
	if (balancer == NULL)
		return;
	if (balancer->policy->close != NULL)
		balancer->policy->close(balancer);
	tuner_close(balancer->tuner);
	free(balancer->state);
	free(balancer->in_flight);
	pool_close(&balancer->pool);
	health_close(&balancer->health);
	free(balancer);
}

unsigned policy_draw_distinct(struct balancer *balancer, uint32_t *servers, unsigned count)
{
	struct health *health = &balancer->health;
	uint32_t positions[LB_PROBES_MAX], position, other, swapped;
	unsigned used;

	FM_ASSERT_LE(count, LB_PROBES_MAX);
	count = FM_MIN(count, health->fit_count);
	/* Floyd: uniform over subsets, one number each */
	for (used = 0; used < count; used++) {
		position = draw_below(&balancer->draw, health->fit_count - count + used + 1);
		for (unsigned i = 0; i < used; i++)
			if (positions[i] == position)
				position = health->fit_count - count + used;
		positions[used] = position;
	}
	/* but not over orders (later ones are high), and the last answer is the newest sample */
	for (unsigned i = 0; i < count; i++) {
		servers[i] = health->order[positions[i]];
		other = draw_below(&balancer->draw, i + 1);
		swapped = servers[other];
		servers[other] = servers[i];
		servers[i] = swapped;
	}
	return count;
}

/* --- an RPC's life -----------------------------------------------------------------------------
 */
/* Trials and last resorts: what no policy is asked about. HEALTH_NOBODY: the policy decides. */
static uint32_t balancer_pick_by_health(struct balancer *balancer, uint64_t now_ns)
{
	uint32_t server = health_trial(&balancer->health, now_ns);

	if (server == HEALTH_NOBODY && fm_unlikely(balancer->health.fit_count == 0))
		server = health_last_resort(&balancer->health, now_ns);
	return server;
}

enum balancer_verdict balancer_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	uint32_t server = balancer_pick_by_health(balancer, now_ns);
	enum balancer_verdict verdict;

	balancer->stats.picks++;
	pick->asked_count = 0;
	verdict = server != HEALTH_NOBODY ? policy_send(pick, server)
					  : balancer->policy->pick(balancer, now_ns, pick);
	if (verdict == LB_ASK) {
		balancer->stats.asks++;
		balancer->stats.probes += pick->asked_count;
	} else if (verdict == LB_PARK) {
		balancer->stats.parks++;
	} else {
		FM_ASSERT_LT(pick->server, balancer->options.servers);
	}
	return verdict;
}

enum balancer_verdict balancer_pick_asked(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	uint32_t server = balancer_pick_by_health(balancer, now_ns);

	if (server != HEALTH_NOBODY)
		return policy_send(pick, server);
	if (balancer->policy->pick_asked != NULL)
		return policy_send(pick, balancer->policy->pick_asked(balancer, now_ns, pick));
	return policy_send(pick, policy_blind(balancer, now_ns));
}

void balancer_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	FM_ASSERT_LT(server, balancer->options.servers);
	balancer->stats.sends++;
	balancer->in_flight[server]++;
	balancer->pool.samples[server].own_sends++;
	if (balancer->policy->sent != NULL)
		balancer->policy->sent(balancer, now_ns, server);
}

static void balancer_forget(struct balancer *balancer, uint32_t server)
{
	pool_forget(&balancer->pool, server);
	if (balancer->policy->forget != NULL)
		balancer->policy->forget(balancer, server);
}

/* What a load says besides numbers. */
static void balancer_learn(
	struct balancer *balancer, uint64_t now_ns, uint32_t server, const struct load *load)
{
	if (pool_put(&balancer->pool, now_ns, server, load)) {
		balancer->stats.restarts++;
		if (balancer->policy->forget != NULL)
			balancer->policy->forget(balancer, server);
		health_restarted(&balancer->health, now_ns, server);
	}
	health_drains(&balancer->health, now_ns, server, (load->flags & LOAD_DRAINING) != 0);
}

static void balancer_judge(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	struct health *health = &balancer->health;
	/* a longer one is of a clock that was set */
	double latency_ns = (double)FM_MIN(outcome->latency_ns, LATENCY_MAX_NS);

	if (outcome->status == 0) {
		health_success(health, now_ns, server, outcome->latency_ns);
		if (balancer->mean_latency_ns == 0)
			balancer->mean_latency_ns = latency_ns;
		balancer->mean_latency_ns +=
			LATENCY_STEP * (latency_ns - balancer->mean_latency_ns);
	} else if (outcome->status == -ECANCELED) {
		health_undecided(health, now_ns, server);
	} else if (outcome->status == -EBUSY) {
		health_busy(health, server);
		balancer_forget(balancer, server);
	} else {
		health_failure(health, now_ns, server);
		balancer_forget(balancer, server);
	}
}

void balancer_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	const struct load *load = outcome->load;

	FM_ASSERT_LT(server, balancer->options.servers);
	FM_ASSERT_NE(balancer->in_flight[server], 0);
	balancer->in_flight[server]--;
	if (load != NULL && (load->flags & LOAD_UNHEALTHY) == 0) {
		balancer->stats.piggybacks++;
		balancer_learn(balancer, now_ns, server, load);
		balancer->pool.samples[server].piggybacked = true;
	}
	balancer_judge(balancer, now_ns, server, outcome);
	if (balancer->tuner != NULL && outcome->status != -ECANCELED)
		tuner_note(balancer->tuner, now_ns, outcome->latency_ns);
	if (balancer->policy->done != NULL)
		balancer->policy->done(balancer, now_ns, server, outcome);
}

/* --- probes ------------------------------------------------------------------------------------
 */
unsigned balancer_probes(
	struct balancer *balancer, uint64_t now_ns, uint32_t servers[LB_PROBES_MAX])
{
	unsigned count = health_probes(&balancer->health, now_ns, servers, LB_PROBES_MAX);

	if (balancer->policy->probes != NULL && balancer->health.fit_count > 0)
		count += balancer->policy->probes(
			balancer, now_ns, servers + count, LB_PROBES_MAX - count);
	balancer->stats.probes += count;
	return count;
}

uint64_t balancer_next_ns(const struct balancer *balancer)
{
	uint64_t next_ns = health_next_ns(&balancer->health);

	if (balancer->policy->next_ns != NULL)
		next_ns = FM_MIN(next_ns, balancer->policy->next_ns(balancer));
	return next_ns;
}

void balancer_sampled(
	struct balancer *balancer, uint64_t now_ns, uint32_t server, const struct load *load)
{
	bool healthy = (load->flags & LOAD_UNHEALTHY) == 0;

	FM_ASSERT_LT(server, balancer->options.servers);
	balancer->stats.samples++;
	health_answered(&balancer->health, now_ns, server, healthy);
	if (!healthy) {
		balancer_forget(balancer, server);
		return;
	}
	balancer_learn(balancer, now_ns, server, load);
	if (balancer->policy->sampled != NULL)
		balancer->policy->sampled(balancer, now_ns, server);
}

void balancer_silent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	FM_ASSERT_LT(server, balancer->options.servers);
	balancer->stats.silences++;
	balancer_forget(balancer, server);
	health_silent(&balancer->health, now_ns, server);
}

/* --- looking in --------------------------------------------------------------------------------
 */
void balancer_stats(const struct balancer *balancer, struct balancer_stats *stats)
{
	*stats = balancer->stats;
	stats->ejections = balancer->health.ejections;
	stats->ejected = balancer->health.ejected_count;
	stats->probes_per_rpc = balancer->tuner != NULL ? tuner_rate(balancer->tuner)
							: balancer->options.probes_per_rpc;
}

uint32_t balancer_in_flight(const struct balancer *balancer, uint32_t server)
{
	FM_ASSERT_LT(server, balancer->options.servers);
	return balancer->in_flight[server];
}

struct tuner *balancer_tuner(struct balancer *balancer)
{
	return balancer->tuner;
}
