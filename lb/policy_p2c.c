/*
 * lb/policy_p2c.c: the power of two choices with probes: asks two servers for every RPC, waits,
 * and sends it to the one with the shorter queue. What Mew is measured against.
 */
#include "base/clock.h"
#include "lb/policy.h"

#define P2C_CHOICES 2

static enum balancer_verdict p2c_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct health *health = &balancer->health;

	pick->asked[0] = health_draw(health, &balancer->draw, now_ns);
	pick->asked[1] = health_draw_other(health, &balancer->draw, now_ns, pick->asked[0]);
	if (pick->asked[0] == pick->asked[1])
		return policy_send(pick, pick->asked[0]);
	pick->asked_count = P2C_CHOICES;
	return LB_ASK;
}

/* An answer is one that came since the question: the question is no older than its timeout. */
static uint32_t p2c_pick_asked(
	struct balancer *balancer, uint64_t now_ns, const struct balancer_pick *pick)
{
	uint64_t since_ns = now_ns - FM_MIN(now_ns, balancer->options.ask_timeout_ns);
	const struct sample *best_sample = NULL, *sample;
	uint32_t best = HEALTH_NOBODY, server;
	bool better;

	for (unsigned i = 0; i < pick->asked_count; i++) {
		server = pick->asked[i];
		sample = pool_get(&balancer->pool, server, since_ns);
		if (sample == NULL || !health_usable(&balancer->health, server))
			continue;
		/* asked[] is in random order: to keep the first of equals is to draw */
		better = best_sample == NULL || sample->in_flight < best_sample->in_flight ||
			 (sample->in_flight == best_sample->in_flight &&
				 sample->delay_ns < best_sample->delay_ns);
		if (better) {
			best = server;
			best_sample = sample;
		}
	}
	return best != HEALTH_NOBODY ? best : policy_blind(balancer, now_ns);
}

const struct policy policy_p2c = {.name = "p2c", .pick = p2c_pick, .pick_asked = p2c_pick_asked};
