/*
 * memnode/offload.h: work that a node does for its clients with the memory it lends: Rebuild,
 * Checksum and the long half of compaction of rpc/memnode.proto. Used by ctl_offload.c,
 * ctl_merge.c.
 *
 * A few worker threads of lower priority than the data plane's; each call has one to itself and the
 * caller's thread waits for it. Thread-safe.
 */
#ifndef FM_MEMNODE_OFFLOAD_H
#define FM_MEMNODE_OFFLOAD_H

#include <stdint.h>

#include "base/compiler.h"
#include "memnode/lease.h"
#include "memnode/merge.h"
#include "rpc/ctl_memnode.h"

/*
 * Calls at once, so handlers blocked at once: a control plane needs more threads than
 * OFFLOAD_BLOCKED_MAX, or keepalives wait. Half of OFFLOAD_CALLS_MAX at most are Checksums, the
 * rest Rebuilds; MergeSends and MergePrepares are counted apart, so that neither keeps the other
 * out. Merges are short and come in swarms: so many more wait for a worker, so long. A worker holds
 * REBUILD_MEMORY_BYTES (rebuild.h) while it works and OFFLOAD_LINGER_NS afterwards.
 */
#define OFFLOAD_CALLS_MAX 4u
#define OFFLOAD_CHECKSUMS_MAX 2u
#define OFFLOAD_MERGES_MAX 4u
#define OFFLOAD_MERGES_WAITING_MAX 12u
#define OFFLOAD_MERGE_WAIT_NS NS_PER_S
#define OFFLOAD_WORKERS (OFFLOAD_CALLS_MAX + OFFLOAD_MERGES_MAX)
#define OFFLOAD_BLOCKED_MAX (OFFLOAD_WORKERS + OFFLOAD_MERGES_WAITING_MAX)

struct offload;

struct offload_options {
	struct lease_table *leases; /* outlives it */
	int nice; /* of the workers, 0..19, as nice(1) has it: on top of the process's own */
	struct merge_way merge_way; /* merges let the data plane go first */
};

struct offload_load {
	uint32_t rebuilds;         /* at work */
	uint32_t merges;           /* transactions open */
	uint64_t merge_sent_bytes; /* since it was opened */
};

/* 0 or -errno. */
int offload_open(const struct offload_options *options, struct offload **offload) FM_MUST_USE;
/* Calls at work end soon, with -EAGAIN; new ones get that at once. */
void offload_stop(struct offload *offload);
/* After the last call has returned. NULL is fine. */
void offload_close(struct offload *offload);

/*
 * Blocking. The request must be free of faults (rebuild_fault). 0: outcomes in *rebuilt. -ENOMEM:
 * too many calls, -EACCES, -EINVAL: nothing was done. -EIO, -EAGAIN (stopped): some of it may be.
 */
int offload_rebuild(struct offload *offload, const struct ctl_rebuild *request,
	struct ctl_rebuilt *rebuilt) FM_MUST_USE;
/* Blocking. CRC32C of 1..CTL_CHECKSUM_MAX slots. 0; -ENOMEM: too many calls; -EACCES (also when
 * fenced meanwhile); -EINVAL: no such slot; -EAGAIN: stopped. */
int offload_checksum(struct offload *offload, const struct fabric_capability *capability,
	const uint32_t *slots, uint32_t count, uint32_t *crcs) FM_MUST_USE;
/*
 * Blocking. The request must be free of faults (merge_send_fault). deltas: in local mode count *
 * 4096 bytes, zeroed; else NULL. -ENOMEM: too many calls, or no memory: nothing was done; else as
 * merge_send_run, merge_prepare.
 */
int offload_merge_send(struct offload *offload, const struct ctl_merge_send *request,
	uint8_t *deltas, struct ctl_merge_sent *sent) FM_MUST_USE;
int offload_merge_prepare(struct offload *offload, uint64_t txid,
	const struct fabric_capability *target, struct ctl_merge_prepared *prepared,
	uint32_t *count) FM_MUST_USE;
/* The node's transactions: for what needs no worker. */
struct merge_table *offload_merges(struct offload *offload);
/* Called about once a second with clock_now_ns(). */
void offload_tick(struct offload *offload, uint64_t now_ns);
void offload_load(struct offload *offload, struct offload_load *load);
/* Rebuilds at work. */
uint32_t offload_rebuilds(struct offload *offload);

#endif
