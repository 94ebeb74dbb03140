/*
 * rpc/urpc_table.h: a client's requests in flight: found by id, ordered by what falls due next.
 *
 * Used by rpc/urpc_client*.c. Pure: no I/O, no clock. Sized at open.
 *
 * Invariants:
 * 1. Ids count up from a random 64-bit start and are never used twice; an id of another client, or
 *    of this one before a restart, meets one of ours with a chance of 2^-50 or less.
 * 2. The slot of an id is id & mask. An id whose slot is taken is skipped: at most half the slots
 *    are, so a free one is found within `requests_max` steps.
 * 3. due[] is a binary heap of the slots with a timer; slot->due_index is a slot's place in it.
 */
#ifndef FM_RPC_URPC_TABLE_H
#define FM_RPC_URPC_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/urpc.h"
#include "rpc/urpc_wire.h"

#define URPC_NO_INDEX UINT32_MAX

/* A reply being gathered from its pieces. */
struct urpc_gathering {
	struct urpc_bitmap have;
	uint32_t total_bytes;
	uint16_t unit;
	uint8_t attempt;
};

struct urpc_slot {
	uint64_t id; /* 0: free */
	struct urpc_request request;
	uint64_t sent_ns, resend_ns; /* first sent; next repetition (CLOCK_NEVER_NS: none) */
	uint64_t due_ns;             /* the next of repetition and deadline */
	uint32_t due_index;
	uint8_t attempt;
	bool finished; /* its completion waits to be polled */
	bool refused_early, has_load;
	int status;
	uint32_t finished_next;
	uint64_t done_ns;
	size_t reply_bytes;
	struct load load;
	struct urpc_gathering gathering;
};

struct urpc_table {
	struct urpc_slot *slots;
	uint32_t *due; /* indexes of slots */
	uint64_t mask, next_id, oldest_id;
	uint32_t count, count_max, due_count;
};

/* first_id: random. 0 or -ENOMEM. */
int urpc_table_open(struct urpc_table *table, uint32_t count_max, uint64_t first_id) FM_MUST_USE;
void urpc_table_close(struct urpc_table *table);
/* A slot with its id drawn and all else zero; NULL: count_max are taken. */
struct urpc_slot *urpc_table_take(struct urpc_table *table);
void urpc_table_free(struct urpc_table *table, struct urpc_slot *slot);
struct urpc_slot *urpc_table_find(struct urpc_table *table, uint64_t id);
/* All ids before this one have been freed. */
uint64_t urpc_table_oldest(struct urpc_table *table);
/* (Re)arms its timer; urpc_table_disarm is fine for one that has none. */
void urpc_table_arm(struct urpc_table *table, struct urpc_slot *slot, uint64_t due_ns);
void urpc_table_disarm(struct urpc_table *table, struct urpc_slot *slot);
/* The slot that falls due first, or NULL. */
struct urpc_slot *urpc_table_first_due(struct urpc_table *table);

static inline uint32_t urpc_table_index(
	const struct urpc_table *table, const struct urpc_slot *slot)
{
	return (uint32_t)(slot - table->slots);
}

#endif
