/*
 * rpc/urpc_once.h: which requests a server has seen already, and what it answered.
 *
 * For methods marked URPC_ONCE. Used by rpc/urpc_dispatch.c and rpc/urpc_worker.c under the
 * server's lock. Pure: no I/O, no clock.
 *
 * A request is (who sent it, id). Its entry lives from arrival
 *
 *     begin -> RUNNING -> finish -> DONE -> evicted
 *                 +-> abandon (it never ran: expired, cancelled or refused while it waited)
 *
 * Invariants (at most once):
 * 1. An entry is evicted, to make room only, when it is DONE and no repeat can come any more:
 *    its client has said that it ended (`settled`, in every later request), or its deadline and
 *    URPC_ONCE_LINGER_NS are over. If none of the URPC_ONCE_LOOK oldest is, the newcomer is
 *    refused: overload, never a second run.
 * 2. A repeat of an id its client has settled is dropped, whether its entry is still there or not.
 *    That is remembered for the URPC_ONCE_CLIENTS clients (nearly) heard last.
 * 3. The newest URPC_ONCE_BYTES of replies are kept. A repeat of a request whose reply is gone is
 *    told so (URPC_ONCE_LOST); it does not run again.
 */
#ifndef FM_RPC_URPC_ONCE_H
#define FM_RPC_URPC_ONCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define URPC_ONCE_ENTRIES 16384u
#define URPC_ONCE_CLIENTS 4096u
#define URPC_ONCE_BYTES (4u << 20)
#define URPC_ONCE_LOOK 64u
#define URPC_ONCE_LINGER_NS 1000000000ull /* older datagrams are not believed to be under way */
#define URPC_ONCE_NONE UINT32_MAX

enum urpc_once_verdict {
	URPC_ONCE_NEW,     /* run it; *index is its entry */
	URPC_ONCE_RUNNING, /* the first will answer */
	URPC_ONCE_DONE,    /* *index: urpc_once_reply has the answer */
	URPC_ONCE_LOST,    /* done, and the answer is gone */
	URPC_ONCE_SETTLED, /* the client has had its answer */
	URPC_ONCE_FULL,
};

struct urpc_once_entry;
struct urpc_once_client;

struct urpc_once {
	struct urpc_once_entry *entries;
	struct urpc_once_client *clients;
	uint32_t *buckets;
	uint8_t *replies; /* a ring of URPC_ONCE_BYTES */
	uint64_t replies_written;
	uint32_t free, oldest, newest, count;
	void *memory;
	size_t memory_bytes;
};

/* What is known of a request before it runs. */
struct urpc_once_request {
	uint64_t who; /* a hash of the sender nobody can aim at */
	uint64_t id;
	uint32_t settled; /* all ids before id - settled have ended */
	uint64_t now_ns, deadline_ns;
};

int urpc_once_open(struct urpc_once *once) FM_MUST_USE;
void urpc_once_close(struct urpc_once *once);
enum urpc_once_verdict urpc_once_begin(
	struct urpc_once *once, const struct urpc_once_request *request, uint32_t *index);
void urpc_once_finish(
	struct urpc_once *once, uint32_t index, int status, const void *reply, size_t length);
void urpc_once_abandon(struct urpc_once *once, uint32_t index);
/* Copies a kept reply out (room for URPC_MESSAGE_BYTES_MAX); its length. */
size_t urpc_once_reply(const struct urpc_once *once, uint32_t index, int *status, void *reply);

#endif
