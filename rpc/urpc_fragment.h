/*
 * rpc/urpc_fragment.h: requests in more than one datagram are put together here.
 *
 * Used by rpc/urpc_dispatch.c; belongs to its thread. (A reply's pieces go straight into the
 * caller's buffer: rpc/urpc_client_receive.c.)
 *
 * Invariants:
 * 1. At most URPC_GATHERS_MAX messages at once; a further one takes the place of the one that has
 *    waited longest for its next piece: forged first pieces cannot shut out honest messages for
 *    longer than it takes to send URPC_GATHERS_MAX pieces, nor make memory grow.
 * 2. Pieces of one message agree in sender, id, total length and unit; others are dropped.
 * 3. A complete message's buffer is lent to the request until urpc_gather_free.
 */
#ifndef FM_RPC_URPC_FRAGMENT_H
#define FM_RPC_URPC_FRAGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/urpc_link.h"
#include "rpc/urpc_wire.h"

#define URPC_GATHERS_MAX 64u

struct urpc_gather {
	_Atomic uint32_t state; /* free, gathering, lent: given back by whichever thread finishes */
	uint64_t id;
	struct urpc_address source;
	uint32_t total_bytes;
	uint16_t unit;
	struct urpc_bitmap have;
	uint64_t first_ns, last_ns; /* arrival of the first and the newest piece */
	uint8_t *bytes;             /* URPC_MESSAGE_BYTES_MAX */
};

struct urpc_gathers {
	struct urpc_gather entries[URPC_GATHERS_MAX];
	void *memory;
	_Atomic uint64_t *dropped; /* counts pieces that led to nothing */
};

int urpc_gathers_open(struct urpc_gathers *gathers, _Atomic uint64_t *dropped) FM_MUST_USE;
void urpc_gathers_close(struct urpc_gathers *gathers);
/* A piece of a message of several. The whole message when this was its last, else NULL. */
struct urpc_gather *urpc_gathers_add(struct urpc_gathers *gathers,
	const struct urpc_address *source, const struct urpc_parsed *parsed, uint64_t now_ns);
/* NULL is fine. Any thread. */
void urpc_gather_free(struct urpc_gather *gather);

#endif
