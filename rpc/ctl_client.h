/*
 * rpc/ctl_client.h: unary gRPC calls to one node, over gRPC core: blocking, or started now and
 * finished later.
 *
 * A client is a channel to one address; thread-safe. It connects at the first call and reconnects
 * by itself (backoff 0.1 .. 1 s); calls never wait for a reconnect: they fail with -ECONNRESET at
 * once. Every call has a deadline, so every call ends.
 */
#ifndef FM_RPC_CTL_CLIENT_H
#define FM_RPC_CTL_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/ctl_library.h"
#include "rpc/load.h"

struct ctl_client;
struct ctl_queue;

struct ctl_result {
	/* 0, or -errno as ctl_status_to_errno has it; -ECONNREFUSED: nobody listens there */
	int status;
	uint8_t *bytes; /* the answer; freed by ctl_result_clear, or by the queue after `done` */
	size_t length;
	bool has_load; /* the answer said how busy the server is (rpc/ctl_orca.h) */
	struct load load;
	char text[CTL_TEXT_BYTES]; /* the node's or gRPC's one line about an error */
};

struct ctl_request {
	const char *method; /* "/farmem.v1.MemoryNode/Stats" */
	const void *bytes;  /* copied */
	size_t length;
	uint64_t timeout_ns;
};

/* address: "host:port" or "unix:/path". 0, -EINVAL or -ENOMEM. Connects to nothing yet. */
int ctl_client_open(const char *address, struct ctl_client **client) FM_MUST_USE;
/* Calls still running keep what they need and end by themselves. NULL is fine. */
void ctl_client_close(struct ctl_client *client);

/* Blocks until answer or deadline. Returns result->status. The result wants ctl_result_clear in any
 * case. */
int ctl_client_call(
	struct ctl_client *client, const struct ctl_request *request, struct ctl_result *result);
void ctl_result_clear(struct ctl_result *result);

/*
 * Calls in the background. Finished ones gather in the queue, whose descriptor then polls readable;
 * ctl_queue_dispatch calls their `done` on the dispatching thread.
 */
int ctl_queue_open(struct ctl_queue **queue) FM_MUST_USE;
/* Waits for what is still running (bounded by the deadlines) and drops its results without `done`.
 * NULL is fine. */
void ctl_queue_close(struct ctl_queue *queue);
int ctl_queue_fd(const struct ctl_queue *queue);
/* Returns how many were finished. */
unsigned ctl_queue_dispatch(struct ctl_queue *queue);

typedef void (*ctl_done)(void *context, const struct ctl_result *result);
/* 0, or -ENOMEM with `done` never called. */
int ctl_client_start(struct ctl_client *client, struct ctl_queue *queue,
	const struct ctl_request *request, ctl_done done, void *context) FM_MUST_USE;

#endif
