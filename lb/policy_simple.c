/*
 * lb/policy_simple.c: the policies that ask nobody: random, rr (cyclic), least (of two drawn, the
 * one with fewer own requests in flight: what gRPC and Envoy call least request).
 */
#include <errno.h>
#include <stdlib.h>

#include "lb/policy.h"

static enum balancer_verdict random_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	return policy_send(pick, health_draw(&balancer->health, &balancer->draw, now_ns));
}

const struct policy policy_random = {.name = "random", .pick = random_pick};

/* --- rr ----------------------------------------------------------------------------------------
 * Cyclic over the usable servers, from a place of its own, or all clients would walk in step.
 */
struct rr {
	uint32_t next; /* a position among the usable */
};

static int rr_open(struct balancer *balancer, const char **why)
{
	struct rr *rr = calloc(1, sizeof(*rr));

	(void)why;
	if (rr == NULL)
		return -ENOMEM;
	rr->next = draw_below(&balancer->draw, balancer->options.servers);
	balancer->state = rr;
	return 0;
}

static enum balancer_verdict rr_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct health *health = &balancer->health;
	struct rr *rr = balancer->state;
	uint32_t server = HEALTH_NOBODY;

	for (unsigned try = 0; try < HEALTH_DRAW_TRIES; try++) {
		rr->next = rr->next + 1 < health->fit_count ? rr->next + 1 : 0;
		server = health->order[rr->next];
		if (health_admits(health, &balancer->draw, now_ns, server))
			break;
	}
	return policy_send(pick, server);
}

const struct policy policy_rr = {.name = "rr", .open = rr_open, .pick = rr_pick};

/* --- least -------------------------------------------------------------------------------------
 */
static enum balancer_verdict least_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct health *health = &balancer->health;
	uint32_t one = health_draw(health, &balancer->draw, now_ns);
	uint32_t other = health_draw_other(health, &balancer->draw, now_ns, one);

	return policy_send(
		pick, balancer->in_flight[other] < balancer->in_flight[one] ? other : one);
}

const struct policy policy_least = {.name = "least", .pick = least_pick};
