/*
 * lb/policy_jiq.c: join the idle queue (Lu et al., Performance 2011): a server that runs out of
 * work tells one client, which sends it its next request; without an idle server a random one.
 *
 * Here the client that is told is the one whose reply says "nothing in flight". The latest token
 * is used first: it is the least likely to be out of date.
 *
 * Invariants:
 * 1. A server is on the stack at most once; one whose token was taken back stays there, void.
 */
#include <errno.h>
#include <stdlib.h>

#include "lb/policy.h"

#define JIQ_VOID 1u       /* on the stack, means nothing */
#define JIQ_IDLE 2u       /* on the stack, a token */
#define JIQ_REFUSED_MAX 4 /* tokens of servers that health held back, for one RPC */

struct jiq {
	uint32_t *stack;
	uint8_t *tokens; /* 0: not on the stack */
	uint32_t depth;
};

static int jiq_open(struct balancer *balancer, const char **why)
{
	struct jiq *jiq = calloc(1, sizeof(*jiq));

	(void)why;
	balancer->state = jiq;
	if (jiq == NULL)
		return -ENOMEM;
	jiq->stack = calloc(balancer->options.servers, sizeof(*jiq->stack));
	jiq->tokens = calloc(balancer->options.servers, sizeof(*jiq->tokens));
	return jiq->stack == NULL || jiq->tokens == NULL ? -ENOMEM : 0;
}

static void jiq_close(struct balancer *balancer)
{
	struct jiq *jiq = balancer->state;

	if (jiq == NULL)
		return;
	free(jiq->stack);
	free(jiq->tokens);
}

/* Void tokens are paid for by who made them void: amortized O(1). */
static enum balancer_verdict jiq_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	struct jiq *jiq = balancer->state;
	unsigned refused = 0;
	uint32_t server;
	uint8_t token;

	while (jiq->depth > 0 && refused < JIQ_REFUSED_MAX) {
		server = jiq->stack[--jiq->depth];
		token = jiq->tokens[server];
		jiq->tokens[server] = 0;
		if (token != JIQ_IDLE)
			continue;
		if (health_admits(&balancer->health, &balancer->draw, now_ns, server))
			return policy_send(pick, server);
		refused++;
	}
	return policy_send(pick, policy_blind(balancer, now_ns));
}

static void jiq_forget(struct balancer *balancer, uint32_t server)
{
	struct jiq *jiq = balancer->state;

	if (jiq->tokens[server] != 0)
		jiq->tokens[server] = JIQ_VOID;
}

static void jiq_sent(struct balancer *balancer, uint64_t now_ns, uint32_t server)
{
	(void)now_ns;
	jiq_forget(balancer, server);
}

static void jiq_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	struct jiq *jiq = balancer->state;

	(void)now_ns;
	if (outcome->status != 0 || outcome->load == NULL)
		return;
	if (outcome->load->in_flight > 0 || balancer->in_flight[server] > 0) {
		jiq_forget(balancer, server);
		return;
	}
	if (jiq->tokens[server] == 0)
		jiq->stack[jiq->depth++] = server;
	jiq->tokens[server] = JIQ_IDLE;
}

const struct policy policy_jiq = {.name = "jiq",
	.open = jiq_open,
	.close = jiq_close,
	.pick = jiq_pick,
	.sent = jiq_sent,
	.done = jiq_done,
	.forget = jiq_forget};
