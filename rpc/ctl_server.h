/*
 * rpc/ctl_server.h: a small gRPC server for unary methods, over gRPC core.
 *
 * A table of {full method name, handler}; everything else is answered UNIMPLEMENTED. Handlers run
 * on the server's threads, several at once, and may block: a blocked handler holds one thread.
 * Messages are bytes here; packing is the handler's business (rpc/ctl_messages.h).
 *
 *     open -> listen, once or more -> start -> close
 */
#ifndef FM_RPC_CTL_SERVER_H
#define FM_RPC_CTL_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/ctl_library.h"
#include "rpc/ctl_orca.h"

#define CTL_METHODS_MAX 32
#define CTL_THREADS_MAX 64
#define CTL_CALLS_MAX 256  /* being received, worked on or answered; further calls wait in gRPC */
#define CTL_STREAMS_MAX 64 /* calls at once on one connection */

struct ctl_server;

/* What a handler answers with. Filled through ctl_reply_space() and ctl_reply_error(). */
struct ctl_reply {
	uint8_t *bytes; /* the server's, freed by it */
	size_t length;
	char text[CTL_TEXT_BYTES]; /* goes with an error status; never a secret */
};

/* 0: the reply's bytes are sent. -errno: sent as the status of ctl_status_from_errno with the
 * reply's text. */
typedef int (*ctl_handler)(
	void *context, const uint8_t *request, size_t request_bytes, struct ctl_reply *reply);

struct ctl_method {
	const char *name; /* "/farmem.v1.MemoryNode/Reserve" */
	ctl_handler handle;
};

struct ctl_server_options {
	const struct ctl_method *methods; /* must outlive the server */
	unsigned methods_count;           /* 1..CTL_METHODS_MAX */
	void *context;                    /* handed to every handler */
	unsigned threads;                 /* 1..CTL_THREADS_MAX */
	/* How busy the server is; when it says true, every answer carries it (rpc/ctl_orca.h). On
	 * any of the server's threads. NULL: answers carry nothing. */
	bool (*load)(void *context, struct orca_report *report);
	uint32_t message_bytes_max; /* larger requests: RESOURCE_EXHAUSTED; 0: CTL_MESSAGE_BYTES_MAX
				     */
};

/* 0, -EINVAL or -ENOMEM. */
int ctl_server_open(
	const struct ctl_server_options *options, struct ctl_server **server) FM_MUST_USE;
/*
 * Adds a listening address, before start: "host:port" (port 0: the kernel's choice) or "unix:/path"
 * (created under the caller's umask; a socket left there is replaced, so the caller makes sure that
 * it is nobody's). *port, when not NULL, becomes the TCP port. 0 or -EADDRINUSE (gRPC says no more
 * than that it failed).
 */
int ctl_server_listen(struct ctl_server *server, const char *address, int *port) FM_MUST_USE;
/* Serves from now on. 0, or -errno when no thread can be made. */
int ctl_server_start(struct ctl_server *server) FM_MUST_USE;
/* Stops accepting, cancels what clients still wait for, waits for running handlers, frees. NULL is
 * fine. */
void ctl_server_close(struct ctl_server *server);

/* `length` bytes for the answer to be written to, or NULL. At most once per reply. */
uint8_t *ctl_reply_space(struct ctl_reply *reply, size_t length) FM_MUST_USE;
/* Notes a one-line text for the status; returns `error`, for `return ctl_reply_error(...)`. */
int ctl_reply_error(struct ctl_reply *reply, int error, const char *format, ...) FM_PRINTF(3, 4);

#endif
