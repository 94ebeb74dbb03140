/*
 * lb/sim/sim_caller.c: the clients of a simulated fleet: what lb/channel.c does with sockets, done
 * with events. See sim_parts.h.
 *
 * A request: caller_request -> pick -> (LB_ASK: probes it waits for -> pick_asked) -> dispatch ->
 * the network -> its server -> caller_answer -> finish. It may end before by its deadline; then
 * what comes later is dropped.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/sim/sim_parts.h"

#define TIMER_LEAST_NS                                                                             \
	1000u /* a balancer that always wants to be asked gets its way this often                  \
	       */

static uint64_t way_ns(struct sim *sim)
{
	uint64_t ns = sim->options.network_ns;

	if (sim->options.jitter_ns > 0)
		ns += (uint64_t)chance_exponential(
			&sim->chances[STREAM_NETWORK], (double)sim->options.jitter_ns);
	return ns;
}

static void send_probe(struct sim *sim, uint32_t client, uint32_t server, uint32_t parent)
{
	uint64_t now_ns = sim->events.now_ns;
	uint32_t index = jobs_take(&sim->stations.jobs);
	struct job *job;
	bool lost;

	if (index == JOB_NONE) {
		sim->out_of_memory = true;
		return;
	}
	job = sim_job(sim, index);
	job->kind = JOB_PROBE;
	job->client = client;
	job->server = server;
	job->parent = parent;
	job->work_ns = sim->options.probe_cost_ns;
	if (parent != JOB_NONE)
		sim_job(sim, parent)->asks++;
	lost = sim->options.probe_loss > 0 &&
	       chance_unit(&sim->chances[STREAM_NETWORK]) <= sim->options.probe_loss;
	job->away = !lost;
	if (!lost)
		events_add_lane(&sim->events, LANE_REQUESTS,
			&(struct event){.at_ns = now_ns + way_ns(sim),
				.kind = SIM_AT_SERVER,
				.who = index});
	events_add_lane(&sim->events, LANE_PROBE_LATE,
		&(struct event){.at_ns = now_ns + sim->options.probe_timeout_ns,
			.kind = SIM_PROBE_LATE,
			.who = index,
			.serial = job->serial});
}

static void send_probes(struct sim *sim, uint32_t client)
{
	uint32_t servers[LB_PROBES_MAX];
	unsigned count =
		balancer_probes(sim->clients[client].balancer, sim->events.now_ns, servers);

	for (unsigned i = 0; i < count; i++)
		send_probe(sim, client, servers[i], JOB_NONE);
}

static void arm_timer(struct sim *sim, uint32_t client_index)
{
	struct sim_client *client = &sim->clients[client_index];
	uint64_t at_ns = balancer_next_ns(client->balancer);

	/* Nobody is served by probing a fleet that has no requests left. */
	if (at_ns == CLOCK_NEVER_NS || sim->ended == sim->options.requests)
		return;
	if (at_ns < sim->events.now_ns + TIMER_LEAST_NS)
		at_ns = sim->events.now_ns + TIMER_LEAST_NS;
	if (client->timer_ns <= at_ns)
		return;
	client->timer_ns = at_ns;
	events_add(&sim->events,
		&(struct event){.at_ns = at_ns, .kind = SIM_CLIENT_TIMER, .who = client_index});
}

static void finish(struct sim *sim, uint32_t index, int status, const struct load *load)
{
	struct job *job = sim_job(sim, index);
	uint64_t latency_ns = sim->events.now_ns - job->intent_ns;

	sim->latency_ns[job->index] = latency_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)latency_ns;
	sim->ended++;
	sim->failed += status != 0;
	job->ended = true;
	if (job->server != JOB_NONE)
		balancer_done(sim->clients[job->client].balancer, sim->events.now_ns, job->server,
			&(struct balancer_outcome){
				.status = status, .latency_ns = latency_ns, .load = load});
	if (!job->away && !job->parked)
		jobs_give(&sim->stations.jobs, index);
}

static void dispatch(struct sim *sim, uint32_t index, uint32_t server)
{
	struct job *job = sim_job(sim, index);
	uint32_t client = job->client;

	job->server = server;
	job->away = true;
	sim->stations.items[server].assigned++;
	balancer_sent(sim->clients[client].balancer, sim->events.now_ns, server);
	events_add_lane(&sim->events, LANE_REQUESTS,
		&(struct event){.at_ns = sim->events.now_ns + way_ns(sim),
			.kind = SIM_AT_SERVER,
			.who = index});
	send_probes(sim, client);
}

static void park(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);
	struct sim_client *client = &sim->clients[job->client];

	job->parked = true;
	job->next = JOB_NONE;
	if (client->parked_tail == JOB_NONE)
		client->parked_head = index;
	else
		sim_job(sim, client->parked_tail)->next = index;
	client->parked_tail = index;
}

static void follow(struct sim *sim, uint32_t index, enum balancer_verdict verdict)
{
	/* A copy: the table may move. */
	const struct balancer_pick pick = sim_job(sim, index)->pick;
	uint32_t client = sim_job(sim, index)->client;

	switch (verdict) {
	case LB_SEND:
		dispatch(sim, index, pick.server);
		break;
	case LB_ASK:
		FM_ASSERT(pick.asked_count > 0);
		for (unsigned i = 0; i < pick.asked_count; i++)
			send_probe(sim, client, pick.asked[i], index);
		break;
	case LB_PARK:
		park(sim, index);
		break;
	case LB_NOBODY:
		finish(sim, index, -ENOTCONN, NULL);
		break;
	}
}

void caller_request(struct sim *sim, uint32_t client, double work_ns)
{
	uint32_t index = jobs_take(&sim->stations.jobs);
	struct job *job;

	if (index == JOB_NONE) {
		sim->out_of_memory = true;
		return;
	}
	job = sim_job(sim, index);
	job->kind = JOB_REQUEST;
	job->client = client;
	job->index = sim->arrived;
	job->intent_ns = sim->events.now_ns;
	job->work_ns = work_ns < 1 ? 1 : (uint64_t)work_ns;
	if (sim->options.deadline_ns > 0)
		events_add_lane(&sim->events, LANE_DEADLINES,
			&(struct event){.at_ns = job->intent_ns + sim->options.deadline_ns,
				.kind = SIM_DEADLINE,
				.who = index,
				.serial = job->serial});
	follow(sim, index,
		balancer_pick(sim->clients[client].balancer, job->intent_ns, &job->pick));
	arm_timer(sim, client);
}

/* A place has become free: those who wait here try again, in their order. */
static void unpark(struct sim *sim, uint32_t client_index)
{
	struct sim_client *client = &sim->clients[client_index];

	while (client->parked_head != JOB_NONE) {
		uint32_t index = client->parked_head;
		struct job *job = sim_job(sim, index);
		enum balancer_verdict verdict = LB_SEND;

		if (!job->ended) {
			verdict = balancer_pick(client->balancer, sim->events.now_ns, &job->pick);
			if (verdict == LB_PARK)
				return;
		}
		client->parked_head = job->next;
		if (client->parked_head == JOB_NONE)
			client->parked_tail = JOB_NONE;
		job->parked = false;
		if (job->ended)
			jobs_give(&sim->stations.jobs, index);
		else
			follow(sim, index, verdict);
	}
}

/* The last of the probes that a request waited for is answered, or late. */
static void asked_one(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);

	if (--job->asks > 0)
		return;
	if (job->ended) {
		jobs_give(&sim->stations.jobs, index);
		return;
	}
	follow(sim, index,
		balancer_pick_asked(
			sim->clients[job->client].balancer, sim->events.now_ns, &job->pick));
}

static void answer_to_probe(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);
	uint32_t parent = job->parent;

	job->away = false;
	if (!job->ended) {
		balancer_sampled(sim->clients[job->client].balancer, sim->events.now_ns,
			job->server, &job->load);
		job->ended = true;
		jobs_give(&sim->stations.jobs, index);
		if (parent != JOB_NONE)
			asked_one(sim, parent);
	} else {
		jobs_give(&sim->stations.jobs, index);
	}
}

void caller_answer(struct sim *sim, uint32_t index)
{
	struct job *job = sim_job(sim, index);
	uint32_t client = job->client;
	struct load load = job->load;

	if (job->kind == JOB_PROBE) {
		answer_to_probe(sim, index);
		return;
	}
	job->away = false;
	if (job->ended) {
		jobs_give(&sim->stations.jobs, index);
		return;
	}
	finish(sim, index, job->status, sim->options.bare_replies ? NULL : &load);
	unpark(sim, client);
	arm_timer(sim, client);
}

void caller_probe_late(struct sim *sim, const struct event *event)
{
	struct job *job = sim_job(sim, event->who);
	uint32_t parent = job->parent;

	if (job->serial != event->serial || job->ended)
		return;
	job->ended = true;
	balancer_silent(sim->clients[job->client].balancer, sim->events.now_ns, job->server);
	if (!job->away)
		jobs_give(&sim->stations.jobs, event->who);
	if (parent != JOB_NONE)
		asked_one(sim, parent);
}

void caller_deadline(struct sim *sim, const struct event *event)
{
	struct job *job = sim_job(sim, event->who);
	uint32_t client = job->client;

	if (job->serial != event->serial || job->ended)
		return;
	/* Probes still name it as their parent: the last of them gives it back. */
	if (job->asks > 0) {
		job->ended = true;
		sim->latency_ns[job->index] = (uint32_t)sim->options.deadline_ns;
		sim->ended++;
		sim->failed++;
		return;
	}
	finish(sim, event->who, -ETIMEDOUT, NULL);
	unpark(sim, client);
}

void caller_timer(struct sim *sim, uint32_t client)
{
	sim->clients[client].timer_ns = CLOCK_NEVER_NS;
	send_probes(sim, client);
	arm_timer(sim, client);
}
