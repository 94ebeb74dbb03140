/*
 * rpc/urpc_worker.c: running handlers: each on a fiber, put aside at a poll point when its quantum
 * is over and others wait.
 *
 * See rpc/urpc_serve.h. A flag on a cache line of its own says that somebody waits (Concord's: one
 * load at a poll point); while it is up, poll points look at the clock. Concord's dispatcher keeps
 * the time itself and raises the flag when a quantum is over; with few cores the dispatcher may not
 * run at that very moment, and then nobody would be put aside. So:
 *  - workers with threads of their own: the dispatcher raises it when it queues something;
 *  - a server of one thread: always up, since who waits lies unseen in the socket. When the time is
 *    over the fiber leaves, the thread looks, and goes on with it if nobody came.
 *
 * Whose turn is it? New requests come first, but what was put aside gets a quantum whenever new
 * ones have had as much since its last: short requests pass long ones, and long ones are never
 * starved.
 *
 * Invariants:
 * 1. A handler begins only before its deadline and if nobody cancelled it.
 * 2. A fiber stays with the worker that began it.
 * 3. An entry of `once` that was begun is finished by the very run of the handler it stands for.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/futex.h"
#include "rpc/urpc_serve.h"

_Thread_local const _Atomic unsigned char *urpc_preempt_flag;
static _Thread_local struct urpc_worker *worker_here;

void urpc_worker_enter(struct urpc_worker *worker)
{
	worker_here = worker;
	if (worker->server->options.quantum_ns == CLOCK_NEVER_NS)
		return;
	atomic_store_explicit(&worker->preempt, !worker->server->threaded, memory_order_relaxed);
	urpc_preempt_flag = &worker->preempt;
}

void urpc_yield(void)
{
	struct urpc_worker *worker = worker_here;
	int saved = errno; /* the thread's, and others run on it meanwhile */

	if (worker == NULL || worker->running == NULL)
		return;
	if (clock_now_ns() >= worker->quantum_end_ns)
		urpc_fibers_leave(&worker->fibers);
	errno = saved;
}

/* --- ends --- */

/* The lock is held. */
static void worker_forget(struct urpc_worker *worker, struct urpc_work *work)
{
	if (work->once != URPC_ONCE_NONE)
		urpc_once_abandon(&worker->server->once, work->once);
	worker->server->in_flight--;
	urpc_server_pool_give(worker->server, work);
}

static void worker_give_back_sent(struct urpc_worker *worker)
{
	struct urpc_work *work;

	if (worker->sender->sent.first == NULL)
		return;
	urpc_server_lock(worker->server);
	while ((work = urpc_list_pop(&worker->sender->sent)) != NULL)
		urpc_server_pool_give(worker->server, work);
	urpc_server_unlock(worker->server);
}

static void worker_flush(struct urpc_worker *worker)
{
	if (worker->sender->count != 0)
		urpc_sender_flush(worker->sender);
	worker_give_back_sent(worker);
}

/* How long to expect its handler to run: the longest lately, forgotten slowly. */
static void worker_learn(struct urpc_work *work)
{
	_Atomic uint32_t *recent_ns = &work->method->recent_ns;
	uint32_t before = atomic_load_explicit(recent_ns, memory_order_relaxed);
	uint32_t now = (uint32_t)FM_MIN(work->used_ns, UINT32_MAX);

	atomic_store_explicit(recent_ns, FM_MAX(now, before - before / 16), memory_order_relaxed);
}

static void worker_finish(struct urpc_worker *worker, struct urpc_work *work)
{
	struct urpc_server *server = worker->server;
	bool cancelled = atomic_load_explicit(&work->cancelled, memory_order_relaxed);

	worker_learn(work);
	if (work->call.reply_bytes > work->call.reply_capacity)
		work->status = -EMSGSIZE;
	else if (work->status > 0 || work->status < -URPC_STATUS_MAX)
		work->status = -EPROTO;
	work->reply_bytes = work->status == 0 ? (uint32_t)work->call.reply_bytes : 0;
	urpc_server_lock(server);
	server->in_flight--;
	if (work->once != URPC_ONCE_NONE)
		urpc_once_finish(&server->once, work->once, work->status,
			work->reply + sizeof(struct urpc_reply_head), work->reply_bytes);
	work->load = urpc_server_load(server, worker->now_ns);
	urpc_server_publish(server, worker->now_ns);
	if (cancelled)
		urpc_server_pool_give(server, work);
	urpc_server_unlock(server);
	if (cancelled)
		urpc_count(&worker->counters.cancelled);
	else
		urpc_sender_add(worker->sender, work);
}

/* --- running --- */

static void worker_handle(void *argument)
{
	struct urpc_work *work = argument;

	work->status = work->method->method.handle(&work->call);
}

/* The lock is held. The oldest that still makes sense, or NULL. */
static struct urpc_work *worker_take_new(struct urpc_worker *worker)
{
	struct urpc_server *server = worker->server;

	while (atomic_load_explicit(&server->queue_count, memory_order_relaxed) != 0) {
		struct urpc_work *work = server->queue[server->queue_head++ & server->queue_mask];

		atomic_fetch_sub_explicit(&server->queue_count, 1, memory_order_relaxed);
		if (atomic_load_explicit(&work->cancelled, memory_order_relaxed)) {
			urpc_count(&worker->counters.cancelled);
		} else if (work->call.deadline_ns <= worker->now_ns) {
			urpc_count(&worker->counters.expired);
		} else {
			uint64_t delay_ns = worker->now_ns > work->call.arrival_ns
						    ? worker->now_ns - work->call.arrival_ns
						    : 0;

			server->delay_ns = (uint32_t)FM_MIN(delay_ns, UINT32_MAX);
			urpc_server_publish(server, worker->now_ns);
			return work;
		}
		worker_forget(worker, work);
		urpc_server_publish(server, worker->now_ns);
	}
	return NULL;
}

static struct urpc_work *worker_take_aside(struct urpc_worker *worker)
{
	struct urpc_work *work = urpc_list_pop(&worker->aside);

	worker->fresh_ns = 0;
	return work;
}

static struct urpc_work *worker_pick(struct urpc_worker *worker)
{
	struct urpc_server *server = worker->server;
	struct urpc_work *work = NULL;

	if (worker->fibers.free_count == 0 ||
		(worker->aside.first != NULL &&
			worker->fresh_ns / URPC_FRESH_QUANTA >= server->options.quantum_ns))
		return worker_take_aside(worker);
	if (atomic_load_explicit(&server->queue_count, memory_order_relaxed) != 0) {
		urpc_server_lock(server);
		work = worker_take_new(worker);
		urpc_server_unlock(server);
	}
	return work != NULL ? work : worker_take_aside(worker);
}

/* Before a quantum: up only if somebody waits already. */
static void worker_lower_flag(struct urpc_worker *worker)
{
	if (!worker->server->threaded || worker->server->options.quantum_ns == CLOCK_NEVER_NS)
		return;
	atomic_store(&worker->preempt, 0); /* seq_cst: pairs with dispatch_raise_flags */
	if (worker->aside.first != NULL || atomic_load(&worker->server->queue_count) != 0)
		atomic_store_explicit(&worker->preempt, 1, memory_order_relaxed);
}

/* One quantum. */
static void worker_run(struct urpc_worker *worker, struct urpc_work *work)
{
	bool is_new = work->fiber == NULL;
	uint64_t begun_ns = worker->now_ns;
	uint64_t quantum_ns = worker->server->options.quantum_ns;
	bool ended;

	if (is_new)
		work->fiber = urpc_fibers_take(&worker->fibers, worker_handle, work);
	worker->running = work;
	worker->quantum_end_ns =
		quantum_ns < CLOCK_NEVER_NS - begun_ns ? begun_ns + quantum_ns : CLOCK_NEVER_NS;
	worker_lower_flag(worker);
	ended = urpc_fibers_run(&worker->fibers, work->fiber);
	worker->running = NULL;
	worker->now_ns = clock_now_ns();
	work->used_ns += worker->now_ns - begun_ns;
	if (ended) {
		if (is_new)
			worker->fresh_ns += worker->now_ns - begun_ns;
		worker_finish(worker, work);
		return;
	}
	urpc_list_push(&worker->aside, work);
	worker->left = work;
}

/* Would the replies that wait be held up by it? */
static bool worker_takes_long(const struct urpc_work *work)
{
	return work->fiber != NULL ||
	       atomic_load_explicit(&work->method->recent_ns, memory_order_relaxed) > URPC_BATCH_NS;
}

void urpc_worker_turn(struct urpc_worker *worker)
{
	uint64_t end_ns = worker->now_ns + URPC_TURN_NS;
	struct urpc_work *work;

	do {
		work = worker_pick(worker);
		if (work == NULL)
			break;
		if (worker->left != NULL && work != worker->left)
			urpc_count(&worker->counters.preemptions);
		worker->left = NULL;
		if (worker->sender->count >= URPC_BATCH_MAX ||
			(worker->sender->count != 0 && worker_takes_long(work)))
			worker_flush(worker);
		worker_run(worker, work);
	} while (worker->now_ns < end_ns);
	worker_flush(worker);
}

/* --- a thread of its own --- */

/* True: there may be something to do. */
static bool worker_spin(struct urpc_worker *worker)
{
	uint64_t end_ns = worker->now_ns + FM_MIN(worker->server->options.spin_ns, NS_PER_S);
	bool success;

	if (!urpc_server_may_spin(worker->server, &worker->spin))
		return false;
	do {
		success = atomic_load_explicit(
				  &worker->server->queue_count, memory_order_relaxed) != 0 ||
			  atomic_load_explicit(&worker->server->stop_workers, memory_order_relaxed);
		fm_cpu_relax();
	} while (!success && clock_now_ns() < end_ns);
	spin_note(&worker->spin, success);
	return success;
}

static void worker_sleep(struct urpc_worker *worker)
{
	struct urpc_server *server = worker->server;
	uint32_t word = atomic_load_explicit(&worker->sleep_word, memory_order_relaxed);
	bool sleep;

	urpc_server_lock(server);
	sleep = atomic_load_explicit(&server->queue_count, memory_order_relaxed) == 0 &&
		!atomic_load_explicit(&server->stop_workers, memory_order_relaxed);
	worker->asleep = sleep;
	urpc_server_unlock(server);
	if (!sleep)
		return;
	futex_wait(&worker->sleep_word, word,
		worker->sender->count != 0 ? URPC_RETRY_NS : URPC_TICK_NS);
	urpc_server_lock(server);
	worker->asleep = false;
	urpc_server_unlock(server);
}

void urpc_worker_wake(struct urpc_worker *worker)
{
	atomic_fetch_add_explicit(&worker->sleep_word, 1, memory_order_relaxed);
	futex_wake(&worker->sleep_word, 1);
}

void *urpc_worker_main(void *argument)
{
	struct urpc_worker *worker = argument;
	struct urpc_server *server = worker->server;

	urpc_worker_enter(worker);
	while (!atomic_load_explicit(&server->stop_workers, memory_order_relaxed)) {
		worker->now_ns = clock_now_ns();
		urpc_worker_turn(worker);
		if (worker->aside.first != NULL ||
			atomic_load_explicit(&server->queue_count, memory_order_relaxed) != 0)
			continue;
		if (!worker_spin(worker))
			worker_sleep(worker);
	}
	return NULL;
}
