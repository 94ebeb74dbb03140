/*
 * lb/policy_jsq.c: join the shortest queue, told by an oracle what it is at this moment: the bound
 * that no policy with a network in between can reach. Simulator only; looks at all servers.
 */
#include "lb/policy.h"

static enum balancer_verdict jsq_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	const struct balancer_options *options = &balancer->options;
	uint32_t best = HEALTH_NOBODY, best_queue = 0, queue;
	uint32_t offset = draw_below(&balancer->draw, options->servers), server;

	for (uint32_t i = 0; i < options->servers; i++) {
		server = offset + i < options->servers ? offset + i : offset + i - options->servers;
		queue = options->oracle(options->oracle_context, server);
		if (best != HEALTH_NOBODY && queue >= best_queue)
			continue;
		if (!health_admits(&balancer->health, &balancer->draw, now_ns, server))
			continue;
		best = server;
		best_queue = queue;
	}
	return policy_send(pick, best != HEALTH_NOBODY ? best : policy_blind(balancer, now_ns));
}

const struct policy policy_jsq = {.name = "jsq", .needs_oracle = true, .pick = jsq_pick};
