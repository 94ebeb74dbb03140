/*
 * farmem/rpc.h: microsecond RPCs, balanced over servers by a policy that knows their load.
 *
 * libfarmem-rpc. A channel is a set of servers, a policy, and calls; it probes off the critical
 * path, and replies carry load as well. A server is a table of methods. All functions are
 * thread-safe unless said otherwise; a handler runs on one of the server's workers. Return values
 * are 0 or -errno.
 */
#ifndef FARMEM_RPC_H
#define FARMEM_RPC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define FM_RPC_MESSAGE_BYTES_MAX 65536u
#define FM_RPC_NO_RETRIES 4294967295u

struct fm_rpc_channel;

struct fm_rpc_options {
	const char *servers;    /* "10.0.0.1:7500,unix:/run/a.sock,shm:/run/b.sock" */
	const char *policy;     /* "mew" (default), "mew-fixed", "prequal", "p2c", "random", .. */
	uint64_t deadline_ns;   /* per call, when the call gives none; default 1 s */
	double probes_per_rpc;  /* for policies with a fixed rate; 0: the policy's default */
	uint64_t sample_age_ns; /* 0: the policy's default */
	uint64_t service_ns;    /* mean time a call takes to serve, where known; policies that go by
				   it otherwise learn it, or assume some 10 us */
	uint64_t resend_ns;     /* repeat an unanswered request to the same server; 0: never */
	unsigned retries;       /* on another server, when one refused before any work; default 1,
				   FM_RPC_NO_RETRIES: none */
	unsigned calls_max;     /* in flight; more fail with -EAGAIN. Default 1024 */
	uint64_t seed;          /* of the policy's choices; 0: drawn */
};

/* -EINVAL: one line on stderr names what is wrong (unknown policy, no or bad address). */
int fm_rpc_open(struct fm_rpc_channel **channel, const struct fm_rpc_options *options);
/* Cancels what is in flight; its callbacks come with -ECANCELED before this returns. Calls of other
 * threads that wait end so too and are waited for; nobody may begin a new one. Not in a callback.
 * NULL is fine. */
void fm_rpc_close(struct fm_rpc_channel *channel);

/*
 * Calls and waits. resp_bytes: in, the room at resp; out, the reply's length.
 * 0 or the handler's -errno; -ETIMEDOUT; -EBUSY: refused by overload; -EHOSTUNREACH: no usable
 * server; -ECONNREFUSED: nobody listens at the one that was chosen; -EMSGSIZE; -ENOSYS: no such
 * method; -EAGAIN: calls_max in flight; -ECANCELED: the channel is being closed.
 */
int fm_rpc_call(struct fm_rpc_channel *channel, uint32_t method, const void *req, size_t req_bytes,
	void *resp, size_t *resp_bytes);

struct fm_rpc_call_options {
	uint32_t method;
	const void *req; /* copied */
	size_t req_bytes;
	void *resp; /* the caller's until the callback */
	size_t resp_capacity;
	uint64_t deadline_ns; /* relative; 0: the channel's */
	/* When the call should have begun (CLOCK_MONOTONIC): latencies count from here, so that a
	 * caller that is late itself does not hide waiting. 0: now */
	uint64_t intended_ns;
	/* Called once, from fm_rpc_poll or from a call waiting in another thread. It may start and
	 * cancel calls; fm_rpc_call and fm_rpc_poll answer -EDEADLK in it. */
	void (*done)(void *context, int status, size_t resp_bytes);
	void *context;
};

/* Starts a call. *id is for fm_rpc_cancel; may be NULL. On error `done` is never called. */
int fm_rpc_start(
	struct fm_rpc_channel *channel, const struct fm_rpc_call_options *options, uint64_t *id);
/* -ENOENT: ended already. `done` comes with -ECANCELED. */
int fm_rpc_cancel(struct fm_rpc_channel *channel, uint64_t id);
/* Makes progress for at most wait_ns (0: only what is there). Returns how many calls ended. */
int fm_rpc_poll(struct fm_rpc_channel *channel, uint64_t wait_ns);
/* Counters and the policy's state as one JSON object. Bytes written or -ENOSPC. */
int fm_rpc_stats(struct fm_rpc_channel *channel, char *text, size_t size);

/* --- server ------------------------------------------------------------------------------------
 */
struct fm_rpc_server;

struct fm_rpc_request {
	const void *req;
	size_t req_bytes;
	void *resp; /* resp_capacity bytes */
	size_t resp_capacity;
	size_t resp_bytes;     /* set by the handler */
	uint64_t arrival_ns;   /* CLOCK_MONOTONIC, of its first packet: when waiting began */
	uint64_t remaining_ns; /* until the caller's deadline, at the start of the handler */
	void *context;
};
/* 0 or -errno, which the caller gets. */
typedef int (*fm_rpc_handler)(struct fm_rpc_request *request);

#define FM_RPC_ONCE 1u /* run at most once per call, even when the request is repeated */

struct fm_rpc_method {
	uint32_t id;
	uint32_t flags;
	fm_rpc_handler handle;
};

struct fm_rpc_server_options {
	const char *listen; /* "0.0.0.0:7500", "unix:/path", "shm:/path" */
	const struct fm_rpc_method *methods;
	unsigned methods_count;
	void *context;
	unsigned workers;    /* default 1 */
	unsigned queue_max;  /* waiting per worker; more are refused. Default 64 */
	uint64_t quantum_ns; /* default 10 us; UINT64_MAX: handlers are never put aside */
	/* Not 0: handlers may sleep or run long. Receiving then has a thread of its own even with
	 * one worker; that costs a hand-over per request. */
	int handlers_block;
	const char
		*probe; /* who answers probes: auto (default), tc, xdp, xdp-generic, user, none */
	const char *probe_allow; /* "10.0.0.0/8,..": who may ask; default everybody */
};

int fm_rpc_server_open(struct fm_rpc_server **server, const struct fm_rpc_server_options *options);
uint16_t fm_rpc_server_port(const struct fm_rpc_server *server);
/* Refuses new requests, finishes those it has, and ends. */
void fm_rpc_server_close(struct fm_rpc_server *server);
int fm_rpc_server_stats(struct fm_rpc_server *server, char *text, size_t size);
/* In long handlers, every few microseconds, never while holding a lock. */
void fm_rpc_poll_point(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
