/*
 * lb/policy_jbsq.c: join the bounded shortest queue (Kogias et al., R2P2, ATC'19): at most n own
 * requests outstanding at a server, the one with fewest gets the next, and while all have their
 * fill the client keeps the request. With one client that is R2P2's router; with several each has
 * its own slots.
 *
 * Invariants:
 * 1. order[] holds the servers by own requests in flight, 0 first; those of level l are
 *    order[begin[l]..begin[l+1]); the last level is "n or more".
 * 2. A pick is O(1) while all servers are usable; it may look at every server when some are out.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "lb/policy.h"

#define JBSQ_SLOTS_MAX 64
#define JBSQ_SLOTS 2

struct jbsq {
	uint32_t *order, *position;
	uint8_t *level;
	unsigned slots;
	uint32_t begin[JBSQ_SLOTS_MAX + 2];
};

static int jbsq_open(struct balancer *balancer, const char **why)
{
	uint32_t servers = balancer->options.servers;
	struct jbsq *jbsq;

	if (balancer->options.server_slots > JBSQ_SLOTS_MAX) {
		if (why != NULL)
			*why = "server slots: must be 0..64";
		return -EINVAL;
	}
	balancer->state = jbsq = calloc(1, sizeof(*jbsq));
	if (jbsq == NULL)
		return -ENOMEM;
	jbsq->slots = balancer->options.server_slots;
	if (jbsq->slots == 0) /* one more than workers: the next is there when one is done */
		jbsq->slots =
			balancer->options.server_workers == 0
				? JBSQ_SLOTS
				: FM_MIN(balancer->options.server_workers + 1, JBSQ_SLOTS_MAX);
	jbsq->order = calloc(servers, sizeof(*jbsq->order));
	jbsq->position = calloc(servers, sizeof(*jbsq->position));
	jbsq->level = calloc(servers, sizeof(*jbsq->level));
	if (jbsq->order == NULL || jbsq->position == NULL || jbsq->level == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < servers; i++)
		jbsq->order[i] = jbsq->position[i] = i;
	for (unsigned l = 1; l < JBSQ_SLOTS_MAX + 2; l++)
		jbsq->begin[l] = servers;
	return 0;
}

static void jbsq_close(struct balancer *balancer)
{
	struct jbsq *jbsq = balancer->state;

	if (jbsq == NULL)
		return;
	free(jbsq->order);
	free(jbsq->position);
	free(jbsq->level);
}

static void jbsq_place(struct jbsq *jbsq, uint32_t server, uint32_t position)
{
	jbsq->order[position] = server;
	jbsq->position[server] = position;
}

static void jbsq_swap(struct jbsq *jbsq, uint32_t server, uint32_t position)
{
	uint32_t other = jbsq->order[position], old = jbsq->position[server];

	jbsq_place(jbsq, server, position);
	if (other != server)
		jbsq_place(jbsq, other, old);
}

/* One more or one fewer: a swap with the border of the level, which then moves. */
static void jbsq_update(struct balancer *balancer, uint32_t server)
{
	struct jbsq *jbsq = balancer->state;
	unsigned level = jbsq->level[server];
	unsigned wanted = FM_MIN(balancer->in_flight[server], jbsq->slots);

	if (wanted == level + 1) {
		jbsq_swap(jbsq, server, --jbsq->begin[level + 1]);
	} else if (wanted + 1 == level) {
		jbsq_swap(jbsq, server, jbsq->begin[level]++);
	} else {
		FM_ASSERT_EQ(wanted, level); /* the last level has no more borders */
	}
	jbsq->level[server] = (uint8_t)wanted;
}

static void jbsq_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	(void)now_ns;
	jbsq_update(balancer, server);
}

static void jbsq_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	(void)now_ns;
	(void)outcome;
	jbsq_update(balancer, server);
}

/* Any usable server of the level, from a random place on. */
static uint32_t jbsq_of_level(struct balancer *balancer, uint64_t now_ns, unsigned level)
{
	struct jbsq *jbsq = balancer->state;
	uint32_t begin = jbsq->begin[level], count = jbsq->begin[level + 1] - begin, server;
	uint32_t offset = count > 0 ? draw_below(&balancer->draw, count) : 0;

	for (uint32_t i = 0; i < count; i++) {
		server = jbsq->order[begin + (offset + i) % count];
		if (health_admits(&balancer->health, &balancer->draw, now_ns, server))
			return server;
	}
	return HEALTH_NOBODY;
}

static enum balancer_verdict jbsq_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	const struct jbsq *jbsq = balancer->state;
	uint32_t server = HEALTH_NOBODY;
	unsigned flying = 0;

	for (unsigned level = 0; level < jbsq->slots && server == HEALTH_NOBODY; level++) {
		server = jbsq_of_level(balancer, now_ns, level);
		flying |= jbsq->begin[level + 1] < balancer->options.servers;
	}
	if (server != HEALTH_NOBODY)
		return policy_send(pick, server);
	/* nothing of ours is out there (all were held back): no done would wake the request */
	return flying == 0 ? policy_send(pick, policy_blind(balancer, now_ns)) : LB_PARK;
}

const struct policy policy_jbsq = {.name = "jbsq",
	.open = jbsq_open,
	.close = jbsq_close,
	.pick = jbsq_pick,
	.sent = jbsq_sent,
	.done = jbsq_done};
