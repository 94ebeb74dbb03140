/*
 * rpc/urpc.h: microsecond RPCs: request and response datagrams between a client and servers.
 *
 * Addresses: "udp:host:port" or "host:port" (UDP), "unix:/path" (unix datagrams on one host),
 * "shm:/path" (rings in shared memory on one host; /path is the unix socket where they are agreed
 * upon). Which server an RPC goes to is the caller's choice (lb/channel.c).
 *
 * A request is sent once; the caller may ask for it to be repeated (resend_ns). Methods marked
 * URPC_ONCE on the server are run at most once per request id: a repeat is answered from the kept
 * reply, or waits for the first. Everything ends: by an answer, an overload answer, its deadline,
 * or cancellation. Messages up to URPC_MESSAGE_BYTES_MAX travel in fragments.
 */
#ifndef FM_RPC_URPC_H
#define FM_RPC_URPC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

#define URPC_MESSAGE_BYTES_MAX 65536u
#define URPC_PEERS_MAX 4096u
#define URPC_REQUESTS_MAX 4096u /* in flight of one client */

/* --- client: not thread-safe; one owner at a time ------------------------------------------- */
struct urpc_client;

struct urpc_client_options {
	unsigned requests_max; /* in flight; 0: 1024 */
	uint64_t spin_ns;      /* before a wait sleeps; 0: learned (rpc/spin.h) up to 50 us */
	/* A datagram of a peer that is none of urpc's (the answer to a probe). May be NULL. */
	void (*foreign)(void *context, uint32_t peer, const void *bytes, size_t length);
	void *context;
};

int urpc_client_open(
	const struct urpc_client_options *options, struct urpc_client **client) FM_MUST_USE;
void urpc_client_close(struct urpc_client *client);
/* Adds a server; nothing is sent yet. *peer: 0, 1, .. 0, -EINVAL, -ENOSPC, -errno of resolving. */
int urpc_client_add(struct urpc_client *client, const char *address, uint32_t *peer) FM_MUST_USE;

struct urpc_request {
	uint32_t peer;
	uint32_t method;
	const void *bytes; /* may be reused when the call returns, unless resend_ns is set */
	size_t length;
	void *reply; /* filled until the completion was polled */
	size_t reply_capacity;
	uint64_t deadline_ns; /* absolute, monotonic; must be set */
	uint64_t resend_ns;   /* repeat when so long without an answer; 0: never */
	uint64_t tag;         /* comes back in the completion */
};

/* 0 and the id; -EAGAIN: requests_max in flight; -EMSGSIZE; -EINVAL; -ENOBUFS and other -errno of
 * the socket: nothing was sent, there will be no completion. */
int urpc_client_send(
	struct urpc_client *client, const struct urpc_request *request, uint64_t *id) FM_MUST_USE;
/* Ends it: the completion comes with -ECANCELED, and the server is told. -ENOENT: ended already. */
int urpc_client_cancel(struct urpc_client *client, uint64_t id);
/* A datagram of the caller's own (a probe) to a peer, by the same socket. 0 or -errno. */
int urpc_client_send_foreign(
	struct urpc_client *client, uint32_t peer, const void *bytes, size_t length);

struct urpc_completion {
	uint64_t id, tag;
	uint32_t peer;
	/* 0 or the handler's -errno; -ETIMEDOUT; -ECANCELED; -EBUSY: refused by overload;
	 * -EMSGSIZE: the reply was larger than reply_capacity (or the limit); -ENOSYS: no such
	 * method; -ECONNREFUSED: nobody listens there; -ESTALE: a URPC_ONCE request that ran, or
	 * may have run before the server's restart, and whose answer is gone */
	int status;
	bool refused_early; /* -EBUSY before any work was done: may be sent elsewhere */
	size_t reply_bytes;
	uint64_t sent_ns, done_ns;
	bool has_load;
	struct load load; /* of the server, from its reply */
};

/* Receives what is there, never sleeps. Returns how many are filled. */
unsigned urpc_client_poll(
	struct urpc_client *client, struct urpc_completion *completions, unsigned max);
/* Spins, then sleeps until something can be polled, urpc_client_wake, or until_ns. 0 or -ETIMEDOUT.
 */
int urpc_client_wait(struct urpc_client *client, uint64_t until_ns);
/* Wakes a thread that sleeps in urpc_client_wait; the one call that any thread may make. The very
 * first may take 10 ms to be noticed by a client of one server; call it once at the beginning. */
void urpc_client_wake(struct urpc_client *client);

struct urpc_client_stats {
	uint64_t requests, resends, replies, timeouts, cancels, overloads;
	uint64_t strays; /* replies to nobody: late, forged, replayed, or of another peer */
	uint64_t malformed, foreign;
};
void urpc_client_stats(const struct urpc_client *client, struct urpc_client_stats *stats);

/* --- server ----------------------------------------------------------------------------------- */
struct urpc_server;

struct urpc_call {
	uint32_t method;
	const void *request;
	size_t request_bytes;
	void *reply; /* reply_capacity bytes */
	size_t reply_capacity;
	size_t reply_bytes;   /* set by the handler */
	uint64_t arrival_ns;  /* of the request's first packet */
	uint64_t deadline_ns; /* absolute, on this machine's clock */
	void *context;
};
/* 0 or -errno, which becomes the completion's status. Runs on a worker, on a stack of
 * URPC_STACK_BYTES; long ones call urpc_poll_point() every few microseconds. */
typedef int (*urpc_handler)(struct urpc_call *call);

#define URPC_STACK_BYTES 65536u
#define URPC_ONCE 1u

struct urpc_method {
	uint32_t id;
	uint32_t flags; /* URPC_ONCE */
	urpc_handler handle;
};

struct urpc_server_options {
	const char *listen; /* one address; port 0: the kernel's choice */
	const struct urpc_method *methods;
	unsigned methods_count;
	void *context;          /* urpc_call.context */
	unsigned workers;       /* 0: one */
	unsigned queue_max;     /* requests waiting per worker; more: an overload answer. 0: 64 */
	uint64_t spin_ns;       /* as the client's */
	uint64_t quantum_ns;    /* a handler that runs longer gives way at its next poll point while
				   others wait; 0: 10 us; CLOCK_NEVER_NS: never */
	struct load_slot *slot; /* published there; NULL: a slot of its own */
	uint64_t (*free_bytes)(void *context); /* for the slot; NULL: 0 */
	/* A datagram that is none of urpc's (a probe). Returns the length of an answer written to
	 * `answer` (at most `length` bytes: never larger than the question), or 0. May be NULL. */
	size_t (*foreign)(void *context, const void *bytes, size_t length, void *answer);
	void *foreign_context;
	/* Handlers run on threads of their own even if there is one worker only. Without it one
	 * worker and the receiver are one thread: no hand-over, no wake-up. */
	bool apart;
};

int urpc_server_open(
	const struct urpc_server_options *options, struct urpc_server **server) FM_MUST_USE;
/* The port it got (UDP), or 0. */
uint16_t urpc_server_port(const struct urpc_server *server);
/* Load is published there from now on; before urpc_server_start only. For those who need to know
 * the port before they have a slot (lb/probe.h). The slot's epoch is its owner's. */
void urpc_server_use_slot(struct urpc_server *server, struct load_slot *slot);
int urpc_server_start(struct urpc_server *server) FM_MUST_USE;
/* New requests are refused, load says LOAD_DRAINING. */
void urpc_server_drain(struct urpc_server *server);
/* Drains, finishes what it has taken, for a second at most, and ends. NULL is fine. */
void urpc_server_close(struct urpc_server *server);
/* The slot in use, for a responder in user space. */
const struct load_slot *urpc_server_slot(const struct urpc_server *server);

struct urpc_server_stats {
	uint64_t requests, replies, overloads, expired, cancelled, duplicates, preemptions;
	uint64_t malformed, foreign, unknown_methods, fragments_dropped;
	uint64_t replies_lost; /* the peer had no room for them until their deadline */
};
void urpc_server_stats(const struct urpc_server *server, struct urpc_server_stats *stats);

/*
 * A place where a long handler may be put aside for others: one load of a flag on a cache line of
 * its own that the dispatcher writes (Concord's cooperative preemption). Not while holding a lock.
 */
extern _Thread_local const _Atomic unsigned char *urpc_preempt_flag;
void urpc_yield(void);
static inline void urpc_poll_point(void)
{
	/* relaxed: a hint */
	if (urpc_preempt_flag != NULL &&
		atomic_load_explicit(urpc_preempt_flag, memory_order_relaxed) != 0)
		urpc_yield();
}

#endif
