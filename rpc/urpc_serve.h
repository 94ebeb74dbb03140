/*
 * rpc/urpc_serve.h: the inside of a urpc server, shared by urpc_server.c (open, start, close),
 * urpc_dispatch.c (datagrams in), urpc_worker.c (handlers) and urpc_sender.c (replies out). Not for
 * others.
 *
 * A request's life:
 *
 *     batch -> [gathered from pieces] -> queue -> begun on a fiber -> finished -> sender -> pool
 *                |                         |         |      ^
 *                +-> refused, answered     |         +------+ put aside at a poll point
 *                    from a kept reply     +-> expired, cancelled
 *
 * Threads. With one worker (the default) a single thread does all of it: a hand-over to a sleeping
 * thread costs more than most handlers (a spinning client's round trip: 4.4 us, with the worker
 * apart 35 us, on two cores). With more, a dispatcher receives and workers take from the
 * one queue, oldest first, when they have nothing else (JBSQ(1), by pulling): nobody waits behind a
 * long request while another worker is idle. What a worker has begun stays with it.
 *
 * Invariants:
 * 1. `lock` is held (when there is more than one thread) for: pool, queue, in_flight, once, the
 *    slot, sleeping workers. Nothing that may block happens under it. It is the only lock.
 * 2. A work is in exactly one place: pool, batch, queue, a worker, a sender.
 * 3. Bounds: the queue by workers * queue_max, what is begun by URPC_FIBERS_MAX a worker, unsent
 *    replies by URPC_SENDER_MAX a thread; the pool is their sum, so taking from it never fails.
 */
#ifndef FM_RPC_URPC_SERVE_H
#define FM_RPC_URPC_SERVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/spin.h"
#include "rpc/urpc.h"
#include "rpc/urpc_fiber.h"
#include "rpc/urpc_fragment.h"
#include "rpc/urpc_link.h"
#include "rpc/urpc_once.h"

#define URPC_SPIN_NS_DEFAULT 50000u
#define URPC_SPIN_NS_MIN 1000u /* less is no spinning at all */
#define URPC_WORKERS_MAX 64u
#define URPC_FIBERS_MAX 64u  /* begun at once, per worker */
#define URPC_SENDER_MAX 128u /* replies that wait to be sent, per thread */
#define URPC_QUEUE_DEFAULT 64u
#define URPC_QUEUE_MAX 16384u /* all workers together */
#define URPC_METHODS_MAX 256u
#define URPC_METHOD_PLACES 1024u
#define URPC_QUANTUM_NS_DEFAULT 10000u
#define URPC_FRESH_QUANTA 8u
#define URPC_TURN_NS 10000u  /* work at most so long before looking for datagrams again */
#define URPC_BATCH_NS 2000u  /* replies wait for those of handlers shorter than this */
#define URPC_RETRY_NS 50000u /* a peer's queue is full: try again after so long */
#define URPC_CLOSE_NS_MAX 1000000000ull
#define URPC_NO_WORK UINT32_MAX

struct urpc_server;

struct urpc_served_method {
	struct urpc_method method;
	_Atomic uint32_t recent_ns; /* of its handler: the longest lately */
};

struct urpc_work {
	struct urpc_call call;
	struct urpc_server *server;
	struct urpc_served_method *method;
	struct urpc_work *next;
	struct urpc_fiber *fiber; /* begun */
	struct urpc_gather *gather;
	uint32_t once; /* index of its entry, or URPC_ONCE_NONE */
	uint64_t id, used_ns;
	uint32_t reply_bytes;
	uint32_t sent_pieces;
	int status;
	uint8_t attempt;
	bool refused, in_flight;
	_Atomic bool cancelled;
	struct load load; /* to go with the reply */
	struct urpc_address source;
	uint8_t *received; /* URPC_DATAGRAM_BYTES_MAX */
	uint8_t *reply;    /* sizeof(struct urpc_reply_head) + URPC_MESSAGE_BYTES_MAX */
};

struct urpc_work_list {
	struct urpc_work *first, *last;
};

struct urpc_counters {
	_Atomic uint64_t requests, replies, overloads, expired, cancelled, duplicates, preemptions;
	_Atomic uint64_t malformed, foreign, unknown_methods;
	_Atomic uint64_t fragments_dropped, replies_lost;
};

/* Written by one thread each, read by any: no locked instruction. */
static inline void urpc_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
		memory_order_relaxed);
}

struct urpc_sender {
	struct urpc_link *link;
	struct urpc_counters *counters;
	struct urpc_work *queue[URPC_SENDER_MAX];
	unsigned count;
	struct urpc_work_list sent; /* to go back to the pool */
	struct mmsghdr messages[URPC_BATCH_MAX];
	struct iovec iov[URPC_BATCH_MAX][2];
	struct urpc_reply_head heads[URPC_BATCH_MAX];
};

struct urpc_worker {
	/* Read at every poll point, written when it shall give way: a line of its own. */
	FM_ALIGNED(FM_CACHE_LINE) _Atomic unsigned char preempt;
	FM_ALIGNED(FM_CACHE_LINE) _Atomic uint32_t sleep_word;
	bool asleep; /* under the lock */
	FM_ALIGNED(FM_CACHE_LINE) struct urpc_server *server;
	struct urpc_fibers fibers;
	struct urpc_work *running,
		*left;               /* left: the one that was put aside last, if it was just now */
	struct urpc_work_list aside; /* begun and put aside, oldest first */
	uint64_t now_ns, quantum_end_ns;
	uint64_t fresh_ns; /* given to new requests since one of `aside` had its turn */
	struct urpc_sender *sender;
	struct urpc_sender own_sender;
	struct urpc_counters counters;
	struct spin spin;
	pthread_t thread;
	bool started;
};

struct urpc_server {
	struct urpc_server_options options;
	struct urpc_link *link;
	bool threaded; /* workers have threads of their own */
	bool spin_learned;
	unsigned workers_count;
	struct urpc_worker *workers;
	struct urpc_served_method *methods;
	uint16_t method_places[URPC_METHOD_PLACES]; /* index + 1 */
	uint64_t hash_key;
	uint64_t opened_ns;
	pthread_mutex_t lock;
	/* under the lock */
	struct urpc_work *pool;
	struct urpc_work **queue; /* queue_mask + 1 places */
	uint64_t queue_head, queue_mask;
	_Atomic uint64_t queue_tail, queue_count;
	uint64_t queue_max;
	uint32_t in_flight, delay_ns;
	uint64_t free_bytes, free_bytes_ns;
	struct urpc_once once;
	struct load_slot *slot, *own_slot;
	/* the dispatcher's */
	struct urpc_batch batch;
	struct urpc_work *batch_works[URPC_BATCH_MAX];
	struct urpc_gathers gathers;
	struct urpc_sender sender;
	struct urpc_counters counters;
	struct spin spin;
	uint64_t published_ns;
	uint32_t published_delay_ns;
	_Atomic bool stop, stop_workers, draining;
	pthread_t thread;
	bool started;
	/* memory */
	struct urpc_work *works;
	unsigned works_count;
	uint8_t *bytes;
	size_t bytes_size;
};

static inline void urpc_list_push(struct urpc_work_list *list, struct urpc_work *work)
{
	work->next = NULL;
	if (list->first == NULL)
		list->first = work;
	else
		list->last->next = work;
	list->last = work;
}

static inline struct urpc_work *urpc_list_pop(struct urpc_work_list *list)
{
	struct urpc_work *work = list->first;

	if (work != NULL)
		list->first = work->next;
	return work;
}

static inline void urpc_server_lock(struct urpc_server *server)
{
	if (server->threaded)
		pthread_mutex_lock(&server->lock);
}

static inline void urpc_server_unlock(struct urpc_server *server)
{
	if (server->threaded)
		pthread_mutex_unlock(&server->lock);
}

static inline bool urpc_server_may_spin(const struct urpc_server *server, struct spin *spin)
{
	return server->options.spin_ns >= URPC_SPIN_NS_MIN &&
	       (!server->spin_learned || spin_is_worth_it(spin));
}

/* --- urpc_dispatch.c: the thread that receives --- */
/* Receives once (until_ns as in urpc_link_ops.receive) and takes what came. True: something. */
bool urpc_dispatch_pump(struct urpc_server *server, uint64_t until_ns);
void *urpc_dispatch_main(void *server);

/* --- urpc_server.c: what all share; the lock is held --- */
void urpc_server_publish(struct urpc_server *server, uint64_t now_ns);
/* The load as a reply says it. */
struct load urpc_server_load(const struct urpc_server *server, uint64_t now_ns);
struct urpc_work *urpc_server_pool_take(struct urpc_server *server);
void urpc_server_pool_give(struct urpc_server *server, struct urpc_work *work);
/* NULL: there is none. Needs no lock. */
struct urpc_served_method *urpc_server_method(struct urpc_server *server, uint32_t id);

/* --- urpc_worker.c: the threads that run handlers --- */
/* Works until nothing is left or URPC_TURN_NS are over, and sends the replies. */
void urpc_worker_turn(struct urpc_worker *worker);
void *urpc_worker_main(void *worker);
/* Makes this thread a worker: its poll points look at `worker`. */
void urpc_worker_enter(struct urpc_worker *worker);
/* Ends its sleep; for other threads. */
void urpc_worker_wake(struct urpc_worker *worker);

/* --- urpc_sender.c --- */
/* The reply (status, reply_bytes, load are set) will go with the next flush. */
void urpc_sender_add(struct urpc_sender *sender, struct urpc_work *work);
/* Sends; what the peer has no room for stays. Sent works are in sender->sent. */
void urpc_sender_flush(struct urpc_sender *sender);

#endif
