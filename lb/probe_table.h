/*
 * lb/probe_table.h: probes under way: which were sent to whom, which were answered, which are
 * silent. No I/O, no clock. Used by lb/channel_probe.c and lb/prober.c. Not thread-safe.
 *
 * One ring in the order of sending: all have the same timeout, so the oldest ends first.
 *
 * Invariants
 *   1. A cookie is the place in the ring (low bits, so that an answer finds it at once) and bits
 *      drawn for this probe alone; an answer counts once, and from the server that was asked.
 *   2. At most the capacity are under way: one more is refused.
 *   3. Every probe is matched once or expires once, not both.
 */
#ifndef FM_LB_PROBE_TABLE_H
#define FM_LB_PROBE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

struct probe_entry {
	uint64_t cookie; /* 0: ended */
	uint64_t sent_ns;
	uint64_t tag; /* the owner's */
	uint32_t server;
};

struct probe_table {
	struct probe_entry *entries;
	uint64_t mask;
	uint64_t head, tail;
	uint64_t timeout_ns;
	uint64_t random;
};

/* capacity: a power of two. 0, -ENOMEM or -EIO (no random bits). */
int probe_table_open(struct probe_table *table, uint32_t capacity, uint64_t timeout_ns) FM_MUST_USE;
void probe_table_close(struct probe_table *table);
/* The cookie to send, never 0; 0: the table is full. */
uint64_t probe_table_add(
	struct probe_table *table, uint32_t server, uint64_t tag, uint64_t now_ns) FM_MUST_USE;
/* It could not be sent after all. */
void probe_table_drop(struct probe_table *table, uint64_t cookie);
/* An answer: true when it was asked for there; fills in what was given to probe_table_add. */
bool probe_table_match(
	struct probe_table *table, uint64_t cookie, uint32_t server, struct probe_entry *entry);
/* What was asked with this cookie, without ending it; for those who know the server only from
 * there. */
bool probe_table_find(const struct probe_table *table, uint64_t cookie, struct probe_entry *entry);
/* The next one that is silent for too long; false: none. */
bool probe_table_expire(struct probe_table *table, uint64_t now_ns, struct probe_entry *entry);
/* When the next one expires; CLOCK_NEVER_NS. May be early. */
uint64_t probe_table_next_ns(const struct probe_table *table);

#endif
