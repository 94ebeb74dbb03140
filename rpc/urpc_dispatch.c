/*
 * rpc/urpc_dispatch.c: the thread of a server that receives: what came is checked, put together,
 * refused, answered from a kept reply, or queued.
 *
 * See rpc/urpc_serve.h. In a server of one thread it runs the handlers too (urpc_worker_turn).
 *
 * Invariants:
 * 1. Whatever a datagram says, it costs a bounded amount of work before it is queued.
 * 2. A request that is not begun because of overload or draining is answered -EBUSY, refused, and
 *    may be sent elsewhere: nothing of it was run, and nothing will be.
 * 3. A repeat of a URPC_ONCE request whose first attempt is older than this server is refused with
 *    -ESTALE: its predecessor may have run it.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/urpc_serve.h"

#define RECEIVES_MAX 6u /* in a row, each twice as much, before what came is run */

struct dispatch_arrival {
	struct urpc_work *work; /* has the datagram and its source */
	const struct urpc_parsed *parsed;
	uint64_t now_ns;
	bool kept; /* the work was taken: the batch needs another */
};

/* --- answers without a handler --- */

static void dispatch_answer(
	struct urpc_server *server, struct dispatch_arrival *arrival, int status)
{
	struct urpc_work *work = arrival->work;

	work->status = status;
	work->load = urpc_server_load(server, arrival->now_ns);
	arrival->kept = true;
	urpc_sender_add(&server->sender, work);
}

static void dispatch_refuse(struct urpc_server *server, struct dispatch_arrival *arrival)
{
	urpc_count(&server->counters.overloads);
	arrival->work->refused = true;
	dispatch_answer(server, arrival, -EBUSY);
}

static void dispatch_foreign(struct urpc_server *server, const struct urpc_received *received)
{
	struct urpc_work *work = server->batch_works[received - server->batch.at];
	struct iovec iov = {work->reply, 0};
	struct mmsghdr message = {.msg_hdr = {.msg_name = &work->source.any,
					  .msg_namelen = work->source.length,
					  .msg_iov = &iov,
					  .msg_iovlen = 1}};

	if (server->options.foreign == NULL) {
		urpc_count(&server->counters.malformed);
		return;
	}
	urpc_count(&server->counters.foreign);
	iov.iov_len = server->options.foreign(
		server->options.foreign_context, received->bytes, received->length, work->reply);
	if (iov.iov_len == 0 || iov.iov_len > received->length)
		return;
	if (server->link->ops->send(server->link, &message, 1) < 0)
		urpc_count(&server->counters.replies_lost);
}

/* --- requests --- */

static uint64_t dispatch_deadline(uint64_t arrival_ns, uint32_t remaining_us)
{
	return remaining_us == URPC_REMAINING_NEVER ? CLOCK_NEVER_NS
						    : arrival_ns + remaining_us * NS_PER_US;
}

static void dispatch_describe(struct urpc_server *server, struct dispatch_arrival *arrival,
	const struct urpc_received *received, struct urpc_gather *gather)
{
	const struct urpc_request_head *head = &arrival->parsed->request;
	struct urpc_work *work = arrival->work;
	uint64_t arrival_ns = gather != NULL ? gather->first_ns : received->arrival_ns;

	work->id = head->head.id;
	work->attempt = head->head.attempt;
	work->gather = gather;
	work->call = (struct urpc_call){
		.request = gather != NULL ? gather->bytes : arrival->parsed->payload,
		.request_bytes = head->head.total_bytes,
		.reply = work->reply + sizeof(struct urpc_reply_head),
		.reply_capacity = URPC_MESSAGE_BYTES_MAX,
		.arrival_ns = arrival_ns,
		.deadline_ns = dispatch_deadline(received->arrival_ns, head->remaining_us),
		.context = server->options.context};
}

/* True: it may run. The lock is held. */
static bool dispatch_once(struct urpc_server *server, struct dispatch_arrival *arrival)
{
	const struct urpc_request_head *head = &arrival->parsed->request;
	struct urpc_work *work = arrival->work;
	struct urpc_once_request request = {
		.who = urpc_address_hash(&work->source, server->hash_key),
		.id = work->id,
		.settled = head->settled,
		.now_ns = arrival->now_ns,
		.deadline_ns = work->call.deadline_ns};
	uint32_t index;
	enum urpc_once_verdict verdict = urpc_once_begin(&server->once, &request, &index);

	switch (verdict) {
	case URPC_ONCE_NEW:
		if (head->head.attempt != 0 &&
			head->age_us >= (arrival->now_ns - server->opened_ns) / NS_PER_US) {
			urpc_once_abandon(&server->once, index);
			dispatch_answer(server, arrival, -ESTALE);
			return false;
		}
		work->once = index;
		return true;
	case URPC_ONCE_FULL:
		dispatch_refuse(server, arrival);
		return false;
	case URPC_ONCE_DONE:
		work->reply_bytes = (uint32_t)urpc_once_reply(
			&server->once, index, &work->status, work->call.reply);
		dispatch_answer(server, arrival, work->status);
		break;
	case URPC_ONCE_LOST:
		dispatch_answer(server, arrival, -ESTALE);
		break;
	case URPC_ONCE_RUNNING:
	case URPC_ONCE_SETTLED:
		break;
	}
	urpc_count(&server->counters.duplicates);
	return false;
}

/* The lock is held. */
static void dispatch_queue(struct urpc_server *server, struct dispatch_arrival *arrival)
{
	struct urpc_work *work = arrival->work;
	uint64_t tail = atomic_load_explicit(&server->queue_tail, memory_order_relaxed);

	if (atomic_load_explicit(&server->draining, memory_order_relaxed) ||
		tail - server->queue_head >= server->queue_max) {
		dispatch_refuse(server, arrival);
		return;
	}
	if ((work->method->method.flags & URPC_ONCE) && !dispatch_once(server, arrival))
		return;
	arrival->kept = true;
	server->in_flight++;
	server->queue[tail & server->queue_mask] = work;
	atomic_store_explicit(&server->queue_tail, tail + 1, memory_order_relaxed);
	/* release: a worker that sees the count goes for the lock; the count alone promises nothing
	 */
	atomic_fetch_add_explicit(&server->queue_count, 1, memory_order_release);
}

static void dispatch_request(struct urpc_server *server, struct dispatch_arrival *arrival,
	const struct urpc_received *received)
{
	struct urpc_gather *gather = NULL;

	if (arrival->parsed->pieces > 1) {
		gather = urpc_gathers_add(
			&server->gathers, received->source, arrival->parsed, received->arrival_ns);
		if (gather == NULL)
			return;
	}
	urpc_count(&server->counters.requests);
	dispatch_describe(server, arrival, received, gather);
	arrival->work->call.method = arrival->parsed->request.method;
	arrival->work->method = urpc_server_method(server, arrival->parsed->request.method);
	if (arrival->work->method == NULL) {
		urpc_count(&server->counters.unknown_methods);
		dispatch_answer(server, arrival, -ENOSYS);
	} else {
		dispatch_queue(server, arrival);
	}
	if (!arrival->kept) {
		urpc_gather_free(gather);
		arrival->work->gather = NULL;
	}
}

/* Marks it; whoever has it looks before it begins and when it is done. The lock is held. */
static void dispatch_cancel(
	struct urpc_server *server, const struct urpc_address *source, uint64_t id)
{
	for (unsigned i = 0; i < server->works_count; i++) {
		struct urpc_work *work = &server->works[i];

		if (work->id == id && urpc_address_equal(&work->source, source))
			atomic_store_explicit(&work->cancelled, true, memory_order_relaxed);
	}
}

/* --- receiving --- */

static void dispatch_one(struct urpc_server *server, unsigned i, uint64_t now_ns)
{
	const struct urpc_received *received = &server->batch.at[i];
	struct urpc_parsed parsed;
	struct dispatch_arrival arrival = {
		.work = server->batch_works[i], .parsed = &parsed, .now_ns = now_ns};
	enum urpc_verdict verdict;

	if (received->length == URPC_RECEIVED_WAKE)
		return;
	verdict = received->length > URPC_DATAGRAM_BYTES_MAX
			  ? URPC_MALFORMED
			  : urpc_wire_parse(received->bytes, received->length, &parsed);
	if (verdict == URPC_FOREIGN)
		dispatch_foreign(server, received);
	else if (verdict == URPC_OURS && parsed.head.kind == URPC_REQUEST)
		dispatch_request(server, &arrival, received);
	else if (verdict == URPC_OURS && parsed.head.kind == URPC_CANCEL)
		dispatch_cancel(server, received->source, parsed.head.id);
	else
		urpc_count(&server->counters.malformed);
	if (!arrival.kept)
		return;
	server->batch_works[i] = urpc_server_pool_take(server);
	server->batch.at[i].bytes = server->batch_works[i]->received;
	server->batch.at[i].source = &server->batch_works[i]->source;
}

/* Sleeping workers, as many as there is work for. Filled under the lock, woken after it. */
static unsigned dispatch_choose_sleepers(
	struct urpc_server *server, struct urpc_worker *sleepers[URPC_WORKERS_MAX])
{
	uint64_t wanted = atomic_load_explicit(&server->queue_count, memory_order_relaxed);
	unsigned count = 0;

	for (unsigned i = 0; i < server->workers_count && count < wanted; i++)
		if (server->workers[i].asleep) {
			server->workers[i].asleep = false;
			sleepers[count++] = &server->workers[i];
		}
	return count;
}

/* Somebody waits: who runs something shall look at the clock. */
static void dispatch_raise_flags(struct urpc_server *server)
{
	if (atomic_load_explicit(&server->queue_count, memory_order_relaxed) == 0)
		return;
	for (unsigned i = 0; i < server->workers_count; i++) {
		_Atomic unsigned char *flag = &server->workers[i].preempt;

		/* seq_cst, and so is the count: pairs with worker_lower_flag: it sees the queue, or
		 * its flag stays up */
		if (atomic_load(flag) == 0)
			atomic_store(flag, 1);
	}
}

/* Nothing has come and nobody is served: the delay of the last request says nothing any more. */
static void dispatch_idle(struct urpc_server *server, uint64_t now_ns)
{
	if (server->in_flight == 0)
		server->delay_ns = 0;
	if (server->delay_ns == 0 && server->published_delay_ns == 0 &&
		now_ns - server->published_ns < LOAD_REFRESH_NS / 2)
		return;
	urpc_server_publish(server, now_ns);
	server->published_ns = now_ns;
	server->published_delay_ns = server->delay_ns;
}

/* One receive. How many came. */
static int dispatch_receive(struct urpc_server *server, uint64_t until_ns)
{
	struct urpc_worker *sleepers[URPC_WORKERS_MAX];
	unsigned sleepers_count = 0;
	struct urpc_work *work;
	int n = server->link->ops->receive(server->link, &server->batch, until_ns);
	uint64_t now_ns = server->batch.now_ns;

	urpc_server_lock(server);
	for (int i = 0; i < n; i++)
		dispatch_one(server, (unsigned)i, now_ns);
	if (n > 0) {
		urpc_server_publish(server, now_ns);
		server->published_ns = now_ns;
		server->published_delay_ns = server->delay_ns;
	} else {
		dispatch_idle(server, now_ns);
	}
	if (server->threaded && n > 0) {
		sleepers_count = dispatch_choose_sleepers(server, sleepers);
		dispatch_raise_flags(server);
	}
	while ((work = urpc_list_pop(&server->sender.sent)) != NULL)
		urpc_server_pool_give(server, work);
	urpc_server_unlock(server);
	for (unsigned i = 0; i < sleepers_count; i++)
		urpc_worker_wake(sleepers[i]);
	return n;
}

bool urpc_dispatch_pump(struct urpc_server *server, uint64_t until_ns)
{
	int n = dispatch_receive(server, until_ns);
	bool success = n > 0;

	/* what waits unseen may be a cancellation, and it counts as load */
	for (unsigned i = 0; n > 0 && server->batch.more && i < RECEIVES_MAX; i++)
		n = dispatch_receive(server, 0);
	if (!server->threaded)
		server->workers[0].now_ns = server->batch.now_ns;
	return success;
}

/* --- the loop --- */

static bool dispatch_has_work(const struct urpc_server *server)
{
	return !server->threaded &&
	       (server->workers[0].aside.first != NULL ||
		       atomic_load_explicit(&server->queue_count, memory_order_relaxed) != 0);
}

/* Until when the next receive may sleep. */
static uint64_t dispatch_until(struct urpc_server *server, uint64_t now_ns)
{
	return server->sender.count != 0 ? now_ns + URPC_RETRY_NS : CLOCK_NEVER_NS;
}

/* Looks for datagrams without sleeping for a while. True: something came. */
static bool dispatch_spin(struct urpc_server *server, uint64_t now_ns)
{
	uint64_t end_ns = now_ns + FM_MIN(server->options.spin_ns, NS_PER_S);
	bool success;

	if (!urpc_server_may_spin(server, &server->spin))
		return false;
	do {
		success = urpc_dispatch_pump(server, 0);
		now_ns = server->batch.now_ns;
	} while (!success && now_ns < end_ns &&
		 !atomic_load_explicit(&server->stop, memory_order_relaxed));
	spin_note(&server->spin, success);
	return success;
}

/* After close was asked for: what has been taken is finished, for URPC_CLOSE_NS_MAX at most. */
static bool dispatch_goes_on(struct urpc_server *server, uint64_t *stop_ns)
{
	uint64_t now_ns;
	uint32_t in_flight;

	if (!atomic_load_explicit(&server->stop, memory_order_relaxed))
		return true;
	now_ns = clock_now_ns();
	if (*stop_ns == 0)
		*stop_ns = now_ns + URPC_CLOSE_NS_MAX;
	urpc_server_lock(server);
	in_flight = server->in_flight;
	urpc_server_unlock(server);
	return in_flight != 0 && now_ns < *stop_ns;
}

void *urpc_dispatch_main(void *argument)
{
	struct urpc_server *server = argument;
	uint64_t stop_ns = 0, until_ns;

	if (!server->threaded)
		urpc_worker_enter(&server->workers[0]);
	while (dispatch_goes_on(server, &stop_ns)) {
		if (dispatch_has_work(server)) {
			urpc_dispatch_pump(server, 0);
		} else {
			server->batch.now_ns =
				server->threaded ? clock_now_ns() : server->workers[0].now_ns;
			until_ns = dispatch_until(server, server->batch.now_ns);
			if (!dispatch_spin(server, server->batch.now_ns))
				urpc_dispatch_pump(server, until_ns);
		}
		if (server->threaded)
			urpc_sender_flush(&server->sender);
		else
			urpc_worker_turn(&server->workers[0]);
	}
	return NULL;
}
