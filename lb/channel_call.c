/*
 * lb/channel_call.c: one call from the pick of a server to its end. Callers: channel_role.c
 * (orders, driving), channel_run.c. All of it by the thread that has the role.
 *
 *     begin --> pick --> SENT ------------------> ended (answer, deadline, cancellation)
 *              |  ^  \    |
 *              |  |   \   +-- refused before any work, retries left: pick again
 *              |  |    +--> PARKED --(a call ended)--> pick
 *              |  |                \--(deadline)-----> ended
 *              |  +-- all asked servers answered, or CHANNEL_ASK_TIMEOUT_NS
 *              +--> ASKING
 *
 * Invariants
 *   1. A call is in a list (asking, answered, parked, finished) exactly while it is ASKING, PARKED,
 *      or, started, ENDED.
 *   2. The balancer hears of every send and of its end with the latency from the caller's intent.
 *   3. A call goes to at most 1 + retries servers, to another one only when the one before
 *      did not work on it.
 *   4. Callbacks run in call_deliver only, when the call's slot is free again.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/channel.h"

/* --- lists ------------------------------------------------------------------------------------
 */

static void list_append(struct call_list *list, struct call *call)
{
	call->prev = list->last;
	call->next = NULL;
	*(list->last != NULL ? &list->last->next : &list->first) = call;
	list->last = call;
	list->count++;
	call->list = list;
}

static void list_remove(struct call *call)
{
	struct call_list *list = call->list;

	if (list == NULL)
		return;
	*(call->prev != NULL ? &call->prev->next : &list->first) = call->next;
	*(call->next != NULL ? &call->next->prev : &list->last) = call->prev;
	list->count--;
	call->list = NULL;
}

/* --- ends ---------------------------------------------------------------------------------------
 */

static void count_end(struct channel_counts *counts, int status)
{
	switch (status) {
	case 0:
		counts->replies++;
		return;
	case -ETIMEDOUT:
		counts->timeouts++;
		return;
	case -ECANCELED:
		counts->cancels++;
		return;
	case -EBUSY:
		counts->overloads++;
		return;
	case -EHOSTUNREACH:
		counts->unreachable++;
		return;
	default:
		counts->errors++;
	}
}

static void call_end(struct fm_rpc_channel *channel, struct call *call, int status, size_t bytes)
{
	list_remove(call);
	count_end(&channel->counts, status);
	call->status = status;
	call->resp_bytes = bytes;
	call->state = CALL_ENDED;
	if (!call->is_sync) {
		list_append(&channel->finished, call);
		return;
	}
	channel->live--;
	channel->ended_count++;
	channel_end_sync(channel, call);
}

void call_deliver(struct fm_rpc_channel *channel)
{
	struct fm_rpc_channel *outer = channel_calling;

	channel_calling = channel;
	while (channel->finished.count > 0) { /* callbacks order calls; they begin later */
		struct call *call = channel->finished.first;
		void (*done)(void *, int, size_t) = call->done;
		void *context = call->context;
		size_t bytes = call->resp_bytes;
		int status = call->status;

		list_remove(call);
		channel->live--;
		channel->ended_count++;
		channel_free_call(channel, call);
		if (done != NULL)
			done(context, status, bytes);
	}
	channel_calling = outer;
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* Not a server's fault: another one would not help. */
static bool error_is_ours(int rc)
{
	return rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM || rc == -EMSGSIZE || rc == -EINVAL;
}

static void tell_done(struct fm_rpc_channel *channel, const struct call *call, uint64_t now_ns,
	struct balancer_outcome outcome)
{
	outcome.latency_ns = now_ns > call->intended_ns ? now_ns - call->intended_ns : 0;
	balancer_done(channel->balancer, now_ns, call->server, &outcome);
}

/* 0: on its way. */
static int call_send(
	struct fm_rpc_channel *channel, struct call *call, uint32_t server, uint64_t now_ns)
{
	struct urpc_request request = {
		.peer = server,
		.method = call->method,
		.bytes = call->req,
		.length = call->req_bytes,
		.reply = call->resp,
		.reply_capacity = call->resp_capacity,
		.deadline_ns = call->deadline_ns,
		.resend_ns = channel->resend_ns,
		.tag = call->index,
	};
	int rc = urpc_client_send(channel->client, &request, &call->request_id);

	if (rc < 0 && error_is_ours(rc))
		return rc;
	call->attempts++;
	call->server = server;
	balancer_sent(channel->balancer, now_ns, server);
	if (rc < 0) {
		tell_done(channel, call, now_ns, (struct balancer_outcome){.status = rc});
		return rc;
	}
	call->state = CALL_SENT;
	return 0;
}

/* True: it waits for answers. */
static bool call_ask(struct fm_rpc_channel *channel, struct call *call, uint64_t now_ns)
{
	unsigned sent = 0;

	call->ask_serial = ++channel->ask_serial;
	channel->counts.asked++;
	for (unsigned i = 0; i < call->pick.asked_count; i++)
		sent += channel_probe_send(channel, call->pick.asked[i], call, now_ns);
	if (sent == 0)
		return false;
	call->answers_missing = sent;
	call->asked_ns = now_ns;
	call->state = CALL_ASKING;
	list_append(&channel->asking, call);
	return true;
}

static bool call_may_go_elsewhere(
	const struct fm_rpc_channel *channel, const struct call *call, uint64_t now_ns)
{
	return call->attempts <= channel->retries && now_ns < call->deadline_ns &&
	       !atomic_load_explicit(&channel->closing, memory_order_relaxed);
}

/* Does what the balancer said. False: it has to be parked. */
static bool call_place(struct fm_rpc_channel *channel, struct call *call,
	enum balancer_verdict verdict, uint64_t now_ns)
{
	for (;;) { /* bounded by attempts: every turn but the last sends */
		int rc;

		if (now_ns >= call->deadline_ns) {
			call_end(channel, call, -ETIMEDOUT, 0);
			return true;
		}
		if (verdict == LB_ASK) {
			if (call_ask(channel, call, now_ns))
				return true;
			verdict = balancer_pick_asked(channel->balancer, now_ns, &call->pick);
		}
		if (verdict == LB_PARK)
			return false;
		if (verdict != LB_SEND) {
			call_end(channel, call, -EHOSTUNREACH, 0);
			return true;
		}
		rc = call_send(channel, call, call->pick.server, now_ns);
		if (rc == 0) {
			channel_probe_due(channel, now_ns);
			return true;
		}
		if (error_is_ours(rc) || !call_may_go_elsewhere(channel, call, now_ns)) {
			call_end(channel, call, rc, 0);
			return true;
		}
		channel->counts.retries++;
		verdict = balancer_pick(channel->balancer, now_ns, &call->pick);
	}
}

static void call_park(struct fm_rpc_channel *channel, struct call *call)
{
	if (channel->parked.count == 0 || call->deadline_ns < channel->parked_deadline_ns)
		channel->parked_deadline_ns = call->deadline_ns;
	call->state = CALL_PARKED;
	channel->counts.parked++;
	list_append(&channel->parked, call);
}

/* Behind those that are parked already. */
static void call_pick(struct fm_rpc_channel *channel, struct call *call, uint64_t now_ns)
{
	if (channel->parked.count > 0) {
		call_park(channel, call);
		return;
	}
	if (!call_place(
		    channel, call, balancer_pick(channel->balancer, now_ns, &call->pick), now_ns))
		call_park(channel, call);
}

/* As many as there is room for; the order stays. */
static void parked_place(struct fm_rpc_channel *channel, uint64_t now_ns)
{
	while (channel->parked.count > 0) {
		struct call *call = channel->parked.first;
		enum balancer_verdict verdict =
			balancer_pick(channel->balancer, now_ns, &call->pick);

		if (verdict == LB_PARK)
			return;
		list_remove(call);
		if (!call_place(channel, call, verdict, now_ns))
			call_park(channel, call);
	}
}

static void parked_expire(struct fm_rpc_channel *channel, uint64_t now_ns)
{
	struct call *call = channel->parked.first, *next;

	channel->parked_deadline_ns = CLOCK_NEVER_NS;
	for (; call != NULL; call = next) {
		next = call->next;
		if (now_ns >= call->deadline_ns)
			call_end(channel, call, -ETIMEDOUT, 0);
		else
			channel->parked_deadline_ns =
				FM_MIN(channel->parked_deadline_ns, call->deadline_ns);
	}
}

/* --- what others call ---------------------------------------------------------------------------
 */

void call_begin(struct fm_rpc_channel *channel, struct call *call, uint64_t now_ns)
{
	channel->live++;
	channel->counts.calls++;
	call->attempts = 0;
	call->list = NULL;
	if (atomic_load_explicit(&channel->closing, memory_order_relaxed))
		call_end(channel, call, -ECANCELED, 0);
	else
		call_pick(channel, call, now_ns);
}

void call_cancel(struct fm_rpc_channel *channel, struct call *call)
{
	if (call->state == CALL_SENT) {
		/* -ENOENT: its end is in the client already. Either way it comes from there. */
		(void)urpc_client_cancel(channel->client, call->request_id);
		return;
	}
	if (call->state == CALL_ENDED)
		return;
	if (call->state == CALL_ORDERED) {
		channel->live++;
		channel->counts.calls++;
		call->list = NULL;
	}
	call_end(channel, call, -ECANCELED, 0);
}

void call_complete(
	struct fm_rpc_channel *channel, const struct urpc_completion *completion, uint64_t now_ns)
{
	struct call *call = &channel->calls[completion->tag];

	FM_ASSERT(completion->tag < channel->calls_max);
	FM_ASSERT(call->state == CALL_SENT && call->request_id == completion->id);
	tell_done(channel, call, now_ns,
		(struct balancer_outcome){.status = completion->status,
			.load = completion->has_load ? &completion->load : NULL});
	if (completion->refused_early && call_may_go_elsewhere(channel, call, now_ns)) {
		channel->counts.retries++;
		call_pick(channel, call, now_ns);
	} else {
		call_end(channel, call, completion->status, completion->reply_bytes);
	}
	parked_place(channel, now_ns);
}

void call_answered(struct fm_rpc_channel *channel, struct call *call)
{
	if (--call->answers_missing > 0)
		return;
	list_remove(call);
	list_append(&channel->answered, call);
}

void call_advance(struct fm_rpc_channel *channel, uint64_t now_ns)
{
	struct call *call;

	for (;;) { /* every turn takes one out */
		call = channel->answered.first;
		if (call == NULL) {
			call = channel->asking.first;
			if (call == NULL || now_ns < call->asked_ns + CHANNEL_ASK_TIMEOUT_NS)
				break;
			channel->counts.ask_timeouts++;
		}
		list_remove(call);
		if (!call_place(channel, call,
			    balancer_pick_asked(channel->balancer, now_ns, &call->pick), now_ns))
			call_park(channel, call);
	}
	if (channel->parked.count == 0)
		return;
	if (now_ns >= channel->parked_deadline_ns)
		parked_expire(channel, now_ns);
	parked_place(channel, now_ns);
}

uint64_t call_next_ns(const struct fm_rpc_channel *channel)
{
	uint64_t next_ns = CLOCK_NEVER_NS;

	if (channel->answered.count > 0 || channel->finished.count > 0)
		return 0;
	if (channel->asking.count > 0)
		next_ns = channel->asking.first->asked_ns + CHANNEL_ASK_TIMEOUT_NS;
	if (channel->parked.count > 0)
		next_ns = FM_MIN(next_ns, channel->parked_deadline_ns);
	return next_ns;
}
