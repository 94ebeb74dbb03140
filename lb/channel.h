/*
 * lb/channel.h: what the files of a channel (include/farmem/rpc.h) share, and what fm-load looks
 * into. Nobody else includes it.
 *
 *   channel.c         opening, closing, counters
 *   channel_role.c    threads: who drives, who sleeps
 *   channel_call.c    one call from pick to end
 *   channel_probe.c   probes under way
 *   channel_run.c     calling, starting, polling, cancelling
 *
 * A channel is one urpc client, one balancer, one table of calls. Neither the client nor the
 * balancer is thread-safe, so at any moment at most one thread has the *role*: it alone sends,
 * receives, picks and times out, for everybody. Others leave orders (begin this, cancel that), wake
 * it, and sleep until their call ended or the role is handed to them. A channel has no thread of
 * its own: while nobody is in one of its functions, nothing happens.
 *
 * Invariants
 *   1. What is marked [role] is touched only by the thread that has the role; [lock]: under `lock`.
 *   2. Whoever gives up the role does all orders first, then hands it to a sleeper if there is one:
 *      while anybody sleeps, somebody has the role.
 *   3. Every balancer_sent has its balancer_done.
 *   4. A call ends exactly once; its slot is reused only after that, with another generation.
 *   5. After open nothing is allocated.
 */
#ifndef FM_LB_CHANNEL_H
#define FM_LB_CHANNEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "farmem/rpc.h"
#include "lb/balancer.h"
#include "lb/probe.h"
#include "lb/probe_table.h"
#include "rpc/urpc.h"

#define CHANNEL_CALLS_MAX URPC_REQUESTS_MAX
#define CHANNEL_CALLS_DEFAULT 1024u
#define CHANNEL_RETRIES_MAX 16u
#define CHANNEL_DEADLINE_DEFAULT_NS 1000000000ull
#define CHANNEL_PROBES_MAX 8192u /* under way; more are not sent, and counted */
#define CHANNEL_PROBE_TIMEOUT_NS 20000000ull
#define CHANNEL_ASK_TIMEOUT_NS 1000000ull
#define CHANNEL_COMPLETIONS_MAX 32u /* taken from the client at a time */
#define CHANNEL_POLL_ROUNDS_MAX 64u
#define CHANNEL_BEHIND_MAX 1000u /* rounds of driving without having received everything */
#define CHANNEL_STATS_BYTES 4096 /* enough for fm_rpc_stats */

enum call_state {
	CALL_FREE,
	CALL_ORDERED, /* not begun yet */
	CALL_ASKING,  /* waits for answers to its probes */
	CALL_PARKED,  /* waits until a server has room */
	CALL_SENT,
	CALL_ENDED, /* until its thread took note, or its callback was called */
};

#define CALL_BEGIN 1u
#define CALL_CANCEL 2u

struct waiter;

struct call {
	/* [lock] */
	struct call *free_next;
	struct call *order_next, *order_prev;
	uint32_t orders; /* CALL_BEGIN, CALL_CANCEL; 0: not in the list of orders */
	uint32_t generation;
	struct waiter *waiter;
	bool taken;
	bool ended; /* sync only */
	/* set by who starts it, then [role] */
	struct call *next, *prev;
	struct call_list *list; /* asking, answered, parked, finished, or none */
	uint32_t ask_serial;
	enum call_state state;
	bool is_sync;
	uint32_t index;
	uint32_t method;
	const void *req;
	size_t req_bytes;
	void *resp;
	size_t resp_capacity, resp_bytes;
	int status;
	unsigned attempts;
	uint64_t intended_ns, deadline_ns, asked_ns;
	uint64_t request_id; /* the client's */
	uint32_t server;
	unsigned answers_missing;
	struct balancer_pick pick;
	void (*done)(void *context, int status, size_t resp_bytes);
	void *context;
};

struct call_list {
	struct call *first, *last;
	unsigned count;
};

#define CHANNEL_NO_CALL UINT64_MAX /* a probe's tag: nobody waits for it */

enum { WAITER_WAITS, WAITER_DONE, WAITER_GO };
struct waiter {
	struct waiter *next, *prev;
	_Atomic uint32_t word;
	bool listed;
};

struct channel_counts {
	uint64_t calls, replies, errors, timeouts, cancels, overloads, unreachable;
	uint64_t retries, parked, asked, ask_timeouts;
	uint64_t probes_sent, probes_answered, probes_silent, probes_skipped, probes_stray;
};

struct fm_rpc_channel {
	pthread_mutex_t lock;
	bool driven;                                   /* [lock] somebody has the role */
	struct waiter *sleepers_first, *sleepers_last; /* [lock] */
	_Atomic uint32_t wanted; /* threads in a hurry for the role; written under lock */
	struct call *orders_first, *orders_last; /* [lock] */
	struct call *free_first;                 /* [lock] */
	_Atomic uint32_t users;                  /* threads inside; written under lock */
	_Atomic bool closing;                    /* written under lock */

	struct urpc_client *client; /* [role], but for urpc_client_wake */
	struct balancer *balancer;  /* [role] */
	struct call *calls;
	unsigned calls_max;
	uint8_t *requests; /* copies: FM_RPC_MESSAGE_BYTES_MAX for each call */
	struct call_list asking, answered, parked, finished; /* [role] */
	unsigned live;                                       /* [role] begun, not ended */
	uint64_t parked_deadline_ns;                         /* [role] no parked one's is earlier */
	uint64_t ended_count;                                /* [role] */
	unsigned behind_count;                               /* [role] */
	struct probe_table probes;                           /* [role] */
	uint32_t ask_serial;                                 /* [role] */
	struct channel_counts counts;                        /* [role] */

	char policy[32];
	unsigned servers_count;
	unsigned retries;
	uint64_t deadline_ns, resend_ns;
};

/* --- channel.c --- */
/* Counters as they are; either may be NULL. For fm-load. */
void channel_look(struct fm_rpc_channel *channel, struct channel_counts *counts,
	struct balancer_stats *balancing);
/* The adaptive policy's trace as CSV. -ENOENT: the policy has none. */
int channel_trace(struct fm_rpc_channel *channel, FILE *out);

/* --- channel_role.c ------------------------------------------------------------------------- */
/* Counts a thread in. 0 or -ECANCELED (closing). */
int channel_use(struct fm_rpc_channel *channel) FM_MUST_USE;
void channel_unuse(struct fm_rpc_channel *channel);
/* Takes the role when nobody has it. */
bool channel_try_role(struct fm_rpc_channel *channel);
/* Waits for the role. False: `call` (may be NULL) ended, or until_ns passed. hurry: whoever has the
 * role gives it up at once. */
bool channel_get_role(struct fm_rpc_channel *channel, struct call *call, uint64_t until_ns,
	bool hurry) FM_MUST_USE;
void channel_leave_role(struct fm_rpc_channel *channel);
/* Begins and cancels what others ordered. */
void channel_orders(struct fm_rpc_channel *channel);
/* Adds to the orders of a call; true: somebody has the role, and was woken. False: nobody has; then
 * the role is the caller's now. */
bool channel_order(struct fm_rpc_channel *channel, struct call *call, uint32_t order);
/* Orders a cancellation, and does it when nobody has the role. False: it is another call by now. */
bool channel_order_cancel(struct fm_rpc_channel *channel, struct call *call, uint32_t generation);
/* A free slot, or NULL. Freed, it has another generation. */
struct call *channel_take_call(struct fm_rpc_channel *channel);
void channel_free_call(struct fm_rpc_channel *channel, struct call *call);
/* A sync call ended: its thread may go. */
void channel_end_sync(struct fm_rpc_channel *channel, struct call *call);
/* Receives, times out, probes; sleeps between. Ends when `call` ended (NULL: any), at until_ns, or
 * when somebody is in a hurry. Returns how many calls ended. */
unsigned channel_drive(struct fm_rpc_channel *channel, const struct call *call, uint64_t until_ns);
/* The channel whose callback this thread is in, or NULL. */
extern _Thread_local struct fm_rpc_channel *channel_calling;

/* --- channel_call.c ---------------------------------------------------------------------------
 */
void call_begin(struct fm_rpc_channel *channel, struct call *call, uint64_t now_ns);
void call_cancel(struct fm_rpc_channel *channel, struct call *call);
void call_complete(
	struct fm_rpc_channel *channel, const struct urpc_completion *completion, uint64_t now_ns);
/* One of the answers a call waits for; in the client's callback: only notes it. */
void call_answered(struct fm_rpc_channel *channel, struct call *call);
/* Goes on with calls whose answers are there; times out asking and parked ones. */
void call_advance(struct fm_rpc_channel *channel, uint64_t now_ns);
/* Callbacks of started calls that ended. */
void call_deliver(struct fm_rpc_channel *channel);
/* When call_advance or call_deliver has something to do at the latest. */
uint64_t call_next_ns(const struct fm_rpc_channel *channel);

/* --- channel_probe.c --------------------------------------------------------------------------
 */
/* Asks a server, for a call or (NULL) for the pool. False: not sent. */
bool channel_probe_send(
	struct fm_rpc_channel *channel, uint32_t server, const struct call *call, uint64_t now_ns);
/* urpc_client_options.foreign: an answer, or junk. */
void channel_probe_answer(void *context, uint32_t peer, const void *bytes, size_t length);
/* Sends what the balancer wants sent. */
void channel_probe_due(struct fm_rpc_channel *channel, uint64_t now_ns);
/* Notices silence. Only after everything that is there has been received: a thread that was away
 * for long must not take its own silence for the servers'. */
void channel_probe_expire(struct fm_rpc_channel *channel, uint64_t now_ns);
uint64_t channel_probe_next_ns(const struct fm_rpc_channel *channel);

#endif
