/*
 * lb/policy_c3.c: C3's ranking of replicas (Suresh et al., NSDI'15, section 3.1).
 *
 * Score R - 1/mu + qhat^3 / mu, the least wins: R the moving mean of latency seen here, 1/mu that
 * of service time, qhat = 1 + own outstanding * clients + moving mean of the queue that replies
 * tell. The replica group is all servers up to C3_GROUP_MAX, of more a random group of that size
 * for each RPC. Its cubic rate control is not here: it guards against overload, which the servers'
 * bounded queues do here, and the comparison of the Prequal paper is of rankings too.
 */
#include <errno.h>
#include <stdlib.h>

#include "lb/policy.h"

#define C3_GROUP_MAX LB_PROBES_MAX
#define C3_STEP 0.1 /* of the moving means; the paper's alpha is 0.9 */

struct c3_server {
	double latency_ns, service_ns, queue; /* latency 0: never heard of */
};

static int c3_open(struct balancer *balancer, const char **why)
{
	(void)why;
	balancer->state = calloc(balancer->options.servers, sizeof(struct c3_server));
	return balancer->state == NULL ? -ENOMEM : 0;
}

static double c3_score(const struct balancer *balancer, uint32_t server)
{
	const struct c3_server *it = (const struct c3_server *)balancer->state + server;
	double own = (double)balancer->in_flight[server] * (double)balancer->options.clients;
	double queue = 1 + own + it->queue;

	return it->latency_ns - it->service_ns + queue * queue * queue * it->service_ns;
}

static enum balancer_verdict c3_pick(
	struct balancer *balancer, uint64_t now_ns, struct balancer_pick *pick)
{
	uint32_t group[C3_GROUP_MAX], best = HEALTH_NOBODY;
	unsigned count = policy_draw_distinct(balancer, group, C3_GROUP_MAX);
	double best_score = 0, score;

	for (unsigned i = 0; i < count; i++) {
		score = c3_score(balancer, group[i]);
		if (best != HEALTH_NOBODY && score >= best_score)
			continue;
		if (!health_admits(&balancer->health, &balancer->draw, now_ns, group[i]))
			continue;
		best = group[i];
		best_score = score;
	}
	return policy_send(pick, best != HEALTH_NOBODY ? best : policy_blind(balancer, now_ns));
}

static void c3_done(struct balancer *balancer, uint64_t now_ns, uint32_t server,
	const struct balancer_outcome *outcome)
{
	struct c3_server *it = (struct c3_server *)balancer->state + server;
	const struct load *load = outcome->load;
	double latency_ns = (double)outcome->latency_ns, service_ns;

	(void)now_ns;
	if (outcome->status != 0 || load == NULL)
		return;
	service_ns = latency_ns > (double)load->delay_ns ? latency_ns - (double)load->delay_ns : 0;
	if (it->latency_ns == 0)
		*it = (struct c3_server){latency_ns, service_ns, (double)load->in_flight};
	it->latency_ns += C3_STEP * (latency_ns - it->latency_ns);
	it->service_ns += C3_STEP * (service_ns - it->service_ns);
	it->queue += C3_STEP * ((double)load->in_flight - it->queue);
}

static void c3_forget(struct balancer *balancer, uint32_t server)
{
	((struct c3_server *)balancer->state)[server] = (struct c3_server){0};
}

const struct policy policy_c3 = {
	.name = "c3", .open = c3_open, .pick = c3_pick, .done = c3_done, .forget = c3_forget};
