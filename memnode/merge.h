/*
 * memnode/merge.h: a node's half of compaction (MergeBegin .. MergeEnd of rpc/memnode.proto).
 *
 * merge.c is the parity node's part: transactions, their scratch, the new parity pieces.
 * merge_send.c is the data node's: what taking b's piece instead of a's means for each parity
 * piece, sent to the parity nodes. ctl_merge.c words the answers, offload.c has the workers.
 * Thread-safe.
 */
#ifndef FM_MEMNODE_MERGE_H
#define FM_MEMNODE_MERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "memnode/lease.h"
#include "memnode/rebuild.h"
#include "rpc/ctl_merge.h"

#define MERGE_SCRATCH_BYTES_MAX (64ull << 20) /* of all transactions of a node together */
#define MERGE_IDLE_NS (60 * NS_PER_S)         /* no message for so long: its agent is gone */

/* What sources and targets that do not answer, or hardly, can cost: see CTL_MERGE_NS. */
#define MERGE_SEND_NS (3 * NS_PER_S)    /* partials are begun to be sent for so long */
#define MERGE_PARTIAL_NS (3 * NS_PER_S) /* one MergePartial */
#define MERGE_IN_FLIGHT 2u              /* MergePartials to one target */
#define MERGE_CLIENTS_MAX 32u           /* nodes that partials go to: connections kept */

/* Work is done in steps of so many bytes; between them serving goes first, but not for ever. */
#define MERGE_STEP_BYTES (16u << 10)
#define MERGE_PAUSE_NS (50 * NS_PER_US)
#define MERGE_PAUSES_MAX 4u /* between two steps */

struct merge_way {
	bool (*busy)(void *context); /* is the node serving at the moment? NULL: never */
	void *context;
};

/* Between two steps. False: stopping. */
bool merge_give_way(const struct merge_way *way, struct rebuild_stop *stop);

/* ---- merge.c ---- */

struct merge_table;

struct merge_usage {
	uint32_t open_count; /* transactions */
	uint64_t scratch_bytes;
};

/* 0 or -ENOMEM. The lease table outlives it. */
int merge_table_open(struct lease_table *leases, struct merge_table **table) FM_MUST_USE;
/* After the last call has returned. NULL is fine. */
void merge_table_close(struct merge_table *table);
void merge_table_usage(struct merge_table *table, struct merge_usage *usage);
/* Drops what nobody asks about any more; called about once a second with clock_now_ns(). */
void merge_table_tick(struct merge_table *table, uint64_t now_ns);
/* The lease was fenced or released: its transaction has ended, before this returns. */
void merge_table_forget(struct merge_table *table, uint64_t lease);

/* What is wrong with a request, as far as can be seen without looking at the lease; NULL: nothing.
 * Its bounds (counts) must hold already. */
const char *merge_begin_fault(const struct ctl_merge_begin *begin);

/*
 * All of them: -EACCES: no such lease; -EPERM: the transaction has ended (end apart: that may be
 * repeated); -ENOENT: it was not begun; -EIO.
 *
 * begin also: -EINVAL: a slot outside the region, or the same txid with other pairs; -ENOMEM: no
 * scratch. None of them waits for anything but a prepare that is to stop: one step.
 */
int merge_begin(struct merge_table *table, const struct ctl_merge_begin *begin) FM_MUST_USE;
int merge_partial(struct merge_table *table, const struct ctl_merge_partial *partial,
	uint8_t *outcomes) FM_MUST_USE;
int merge_end(struct merge_table *table, uint64_t txid, const struct fabric_capability *target,
	bool commit) FM_MUST_USE;

struct merge_preparing {
	uint64_t txid;
	struct fabric_capability target;
	struct merge_way way;
	struct rebuild_stop *stop;
};
/* Long: on a worker. *count pairs in *prepared. -EAGAIN: stopped. */
int merge_prepare(struct merge_table *table, const struct merge_preparing *preparing,
	struct ctl_merge_prepared *prepared, uint32_t *count) FM_MUST_USE;

/* ---- merge_send.c ---- */

/* Connections to nodes that partials go to, shared by the workers. */
struct merge_clients;

int merge_clients_open(struct merge_clients **clients) FM_MUST_USE;
/* NULL is fine. */
void merge_clients_close(struct merge_clients *clients);

struct ctl_queue;

struct merge_sending {
	const struct ctl_merge_send *request;
	struct lease_table *leases;
	struct merge_clients *clients;
	struct merge_way way;
	struct rebuild_stop *stop;
	uint8_t *memory;          /* MERGE_SEND_BYTES */
	struct ctl_queue **queue; /* the worker's; made when there is none */
	/* local mode: count * 4096 bytes, zeroed; the result's deltas point there */
	uint8_t *deltas;
};

#define MERGE_SEND_BYTES (CTL_MERGE_TARGETS * CTL_MERGE_PARTIALS * FM_PAGE_SIZE)

const char *merge_send_fault(const struct ctl_merge_send *send);
/* Long: on a worker. 0: outcomes and statuses in *sent. -EACCES, -ENOMEM: nothing was sent; -EIO,
 * -EAGAIN (stopped): some of it may be. */
int merge_send_run(const struct merge_sending *sending, struct ctl_merge_sent *sent) FM_MUST_USE;

#endif
