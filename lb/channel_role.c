/*
 * lb/channel_role.c: the threads of a channel: who has the role, who waits, what is ordered. See
 * channel.h, invariants 1 and 2. Callers: channel_run.c, channel.c.
 *
 * The role is handed over, not dropped, when somebody waits for it: `driven` stays true, and the
 * sleeper wakes as its owner. So nobody can slip in between, and no wake-up is lost.
 *
 * Lock: `lock` is held for a few lines at a time, never while sending, receiving or calling back.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/futex.h"
#include "lb/channel.h"

_Thread_local struct fm_rpc_channel *channel_calling;

int channel_use(struct fm_rpc_channel *channel)
{
	int rc = 0;

	pthread_mutex_lock(&channel->lock);
	if (atomic_load_explicit(&channel->closing, memory_order_relaxed))
		rc = -ECANCELED;
	else
		/* relaxed: under the lock; fm_rpc_close reads it there too */
		atomic_fetch_add_explicit(&channel->users, 1, memory_order_relaxed);
	pthread_mutex_unlock(&channel->lock);
	return rc;
}

void channel_unuse(struct fm_rpc_channel *channel)
{
	bool last;

	pthread_mutex_lock(&channel->lock);
	last = atomic_fetch_sub_explicit(&channel->users, 1, memory_order_relaxed) == 1 &&
	       atomic_load_explicit(&channel->closing, memory_order_relaxed);
	if (last)
		futex_wake(&channel->users, 1);
	pthread_mutex_unlock(&channel->lock);
}

/* --- sleepers [lock] --------------------------------------------------------------------------
 */

static void sleepers_add(struct fm_rpc_channel *channel, struct waiter *waiter, bool front)
{
	struct waiter *next = front ? channel->sleepers_first : NULL;
	struct waiter *prev = front ? NULL : channel->sleepers_last;

	waiter->next = next;
	waiter->prev = prev;
	waiter->listed = true;
	*(prev != NULL ? &prev->next : &channel->sleepers_first) = waiter;
	*(next != NULL ? &next->prev : &channel->sleepers_last) = waiter;
}

static void sleepers_remove(struct fm_rpc_channel *channel, struct waiter *waiter)
{
	*(waiter->prev != NULL ? &waiter->prev->next : &channel->sleepers_first) = waiter->next;
	*(waiter->next != NULL ? &waiter->next->prev : &channel->sleepers_last) = waiter->prev;
	waiter->listed = false;
}

/* [lock] Takes it off the list and tells it. Then waiter_wake, without the lock: the waiter may be
 * gone by then, only its address is used. */
static void waiter_tell(struct fm_rpc_channel *channel, struct waiter *waiter, uint32_t what)
{
	sleepers_remove(channel, waiter);
	/* release: pairs with the acquire in waiter_sleep */
	atomic_store_explicit(&waiter->word, what, memory_order_release);
}

static void waiter_wake(struct waiter *waiter)
{
	if (waiter != NULL)
		futex_wake(&waiter->word, 1);
}

/* Until it is told something, or until_ns. */
static void waiter_sleep(struct waiter *waiter, uint64_t until_ns)
{
	for (;;) {
		uint32_t word = atomic_load_explicit(&waiter->word, memory_order_acquire);
		uint64_t now_ns;

		if (word != WAITER_WAITS)
			return;
		now_ns = clock_now_ns();
		if (now_ns >= until_ns)
			return;
		futex_wait(&waiter->word, WAITER_WAITS,
			until_ns == CLOCK_NEVER_NS ? UINT64_MAX : until_ns - now_ns);
	}
}

/* --- the role -----------------------------------------------------------------------------------
 */

bool channel_try_role(struct fm_rpc_channel *channel)
{
	bool mine;

	pthread_mutex_lock(&channel->lock);
	mine = !channel->driven;
	channel->driven = true;
	pthread_mutex_unlock(&channel->lock);
	return mine;
}

/* It sleeps no more: nobody may know of it, for it lies on its thread's stack. Was it handed the
 * role, if only just now? */
static bool role_wake(struct fm_rpc_channel *channel, struct call *call, struct waiter *waiter)
{
	bool mine;

	pthread_mutex_lock(&channel->lock);
	if (waiter->listed)
		sleepers_remove(channel, waiter);
	if (call != NULL)
		call->waiter = NULL;
	/* relaxed: the lock orders it, or waiter_sleep has */
	mine = atomic_load_explicit(&waiter->word, memory_order_relaxed) == WAITER_GO;
	pthread_mutex_unlock(&channel->lock);
	return mine;
}

bool channel_get_role(
	struct fm_rpc_channel *channel, struct call *call, uint64_t until_ns, bool hurry)
{
	struct waiter waiter = {.word = WAITER_WAITS};
	bool mine;

	pthread_mutex_lock(&channel->lock);
	if (call != NULL && call->ended) {
		pthread_mutex_unlock(&channel->lock);
		return false;
	}
	if (!channel->driven) {
		channel->driven = true;
		pthread_mutex_unlock(&channel->lock);
		return true;
	}
	sleepers_add(channel, &waiter, hurry);
	if (call != NULL)
		call->waiter = &waiter;
	if (hurry)
		/* relaxed: a hint; the lock and the wake-up order it */
		atomic_fetch_add_explicit(&channel->wanted, 1, memory_order_relaxed);
	pthread_mutex_unlock(&channel->lock);
	if (hurry)
		urpc_client_wake(channel->client);
	waiter_sleep(&waiter, until_ns);
	mine = role_wake(channel, call, &waiter);
	if (hurry)
		atomic_fetch_sub_explicit(&channel->wanted, 1, memory_order_relaxed);
	return mine;
}

void channel_leave_role(struct fm_rpc_channel *channel)
{
	struct waiter *heir;

	for (;;) {
		pthread_mutex_lock(&channel->lock);
		if (channel->orders_first == NULL)
			break;
		pthread_mutex_unlock(&channel->lock);
		channel_orders(channel);
	}
	heir = channel->sleepers_first;
	if (heir != NULL)
		waiter_tell(channel, heir, WAITER_GO);
	else
		channel->driven = false;
	pthread_mutex_unlock(&channel->lock);
	waiter_wake(heir);
}

/* --- orders and slots ---------------------------------------------------------------------------
 */

/* [lock] */
static void orders_remove(struct fm_rpc_channel *channel, struct call *call)
{
	struct call *prev = call->order_prev, *next = call->order_next;

	*(prev != NULL ? &prev->order_next : &channel->orders_first) = next;
	*(next != NULL ? &next->order_prev : &channel->orders_last) = prev;
	call->order_next = call->order_prev = NULL;
	call->orders = 0;
}

/* [lock] */
static void orders_add(struct fm_rpc_channel *channel, struct call *call, uint32_t order)
{
	if (call->orders == 0) {
		call->order_prev = channel->orders_last;
		call->order_next = NULL;
		if (channel->orders_last != NULL)
			channel->orders_last->order_next = call;
		else
			channel->orders_first = call;
		channel->orders_last = call;
	}
	call->orders |= order;
}

bool channel_order(struct fm_rpc_channel *channel, struct call *call, uint32_t order)
{
	bool driven;

	pthread_mutex_lock(&channel->lock);
	orders_add(channel, call, order);
	driven = channel->driven;
	channel->driven = true;
	pthread_mutex_unlock(&channel->lock);
	if (driven && channel_calling != channel)
		urpc_client_wake(channel->client);
	return driven;
}

bool channel_order_cancel(struct fm_rpc_channel *channel, struct call *call, uint32_t generation)
{
	bool known, driven;

	pthread_mutex_lock(&channel->lock);
	known = call->taken && call->generation == generation;
	driven = channel->driven;
	if (known) {
		orders_add(channel, call, CALL_CANCEL);
		channel->driven = true;
	}
	pthread_mutex_unlock(&channel->lock);
	if (!known)
		return false;
	if (!driven)
		channel_leave_role(channel);
	else if (channel_calling != channel)
		urpc_client_wake(channel->client);
	return true;
}

void channel_orders(struct fm_rpc_channel *channel)
{
	for (;;) {
		struct call *call;
		uint32_t orders = 0;

		pthread_mutex_lock(&channel->lock);
		call = channel->orders_first;
		if (call != NULL) {
			orders = call->orders;
			orders_remove(channel, call);
		}
		pthread_mutex_unlock(&channel->lock);
		if (call == NULL)
			return;
		/* A call that is cancelled before it began has both: it never leaves. */
		if (orders & CALL_CANCEL)
			call_cancel(channel, call);
		else
			call_begin(channel, call, clock_now_ns());
	}
}

struct call *channel_take_call(struct fm_rpc_channel *channel)
{
	struct call *call;

	pthread_mutex_lock(&channel->lock);
	call = channel->free_first;
	if (call != NULL) {
		channel->free_first = call->free_next;
		call->state = CALL_ORDERED;
		call->taken = true;
		call->ended = false;
		call->waiter = NULL;
	}
	pthread_mutex_unlock(&channel->lock);
	return call;
}

void channel_free_call(struct fm_rpc_channel *channel, struct call *call)
{
	pthread_mutex_lock(&channel->lock);
	if (call->orders != 0)
		orders_remove(channel, call);
	call->generation++;
	call->state = CALL_FREE;
	call->taken = false;
	call->free_next = channel->free_first;
	channel->free_first = call;
	pthread_mutex_unlock(&channel->lock);
}

void channel_end_sync(struct fm_rpc_channel *channel, struct call *call)
{
	struct waiter *waiter;

	pthread_mutex_lock(&channel->lock);
	call->ended = true;
	waiter = call->waiter;
	call->waiter = NULL;
	/* One that is not listed any more was handed the role: it will see for itself. */
	if (waiter != NULL && !waiter->listed)
		waiter = NULL;
	if (waiter != NULL)
		waiter_tell(channel, waiter, WAITER_DONE);
	pthread_mutex_unlock(&channel->lock);
	waiter_wake(waiter);
}

/* --- driving ------------------------------------------------------------------------------------
 */

/* Takes what is there; stops early when the call that the thread waits for has ended. True: all of
 * it was taken. */
static bool drive_receive(struct fm_rpc_channel *channel, const struct call *call)
{
	struct urpc_completion completions[CHANNEL_COMPLETIONS_MAX];

	for (unsigned round = 0; round < CHANNEL_POLL_ROUNDS_MAX; round++) {
		uint64_t answers = channel->counts.probes_answered + channel->counts.probes_stray;
		unsigned count =
			urpc_client_poll(channel->client, completions, CHANNEL_COMPLETIONS_MAX);
		uint64_t now_ns = clock_now_ns();

		for (unsigned i = 0; i < count; i++)
			call_complete(channel, &completions[i], now_ns);
		if (call != NULL && call->state == CALL_ENDED)
			return false;
		if (count == 0 &&
			answers == channel->counts.probes_answered + channel->counts.probes_stray)
			return true;
	}
	return false;
}

/* Only who has received everything may call somebody silent; or who never gets there. */
static void drive_expire(struct fm_rpc_channel *channel, bool caught_up, uint64_t now_ns)
{
	if (!caught_up && ++channel->behind_count < CHANNEL_BEHIND_MAX)
		return;
	channel_probe_expire(channel, now_ns);
	channel->behind_count = 0;
}

static uint64_t drive_next_ns(const struct fm_rpc_channel *channel, uint64_t until_ns)
{
	until_ns = FM_MIN(until_ns, call_next_ns(channel));
	return FM_MIN(until_ns, channel_probe_next_ns(channel));
}

unsigned channel_drive(struct fm_rpc_channel *channel, const struct call *call, uint64_t until_ns)
{
	uint64_t ended_before = channel->ended_count;

	for (;;) {
		uint64_t now_ns, next_ns;
		bool caught_up;

		channel_orders(channel);
		caught_up = drive_receive(channel, call);
		now_ns = clock_now_ns();
		call_advance(channel, now_ns);
		drive_expire(channel, caught_up, now_ns);
		channel_probe_due(channel, now_ns);
		call_deliver(channel);
		if (call != NULL ? call->state == CALL_ENDED : channel->ended_count != ended_before)
			break;
		/* relaxed: hints, see channel_get_role and fm_rpc_close */
		if (now_ns >= until_ns ||
			atomic_load_explicit(&channel->wanted, memory_order_relaxed) != 0)
			break;
		next_ns = drive_next_ns(channel, until_ns);
		if (next_ns > now_ns)
			(void)urpc_client_wait(channel->client, next_ns);
	}
	return (unsigned)(channel->ended_count - ended_before);
}
