/*
 * memnode/lease.h: what this node lends: leases, each one region of memory under one capability.
 *
 * Used by the ctl service (reserve, keepalive, release, fence, stats) and by the data servers
 * (attach, access). Thread-safe. One lease = one region = one memfd, fallocated by the node so that
 * its memory is charged here, sealed against growing; revocation = cut connections, ftruncate(0),
 * never reused: the next lease gets a new memfd, which the kernel hands out zeroed. State: LEASED
 * -> ORPHANED (bytes kept, any keepalive or traffic revives) -> revoked by release, or after
 * orphan_keep. One that was never used (attached or kept alive) is revoked instead of orphaned.
 */
#ifndef FM_MEMNODE_LEASE_H
#define FM_MEMNODE_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/fabric.h"

#define LEASES_MAX 16384
#define REGION_BYTES_MAX (4ull << 30)

enum lease_state { LEASE_FREE, LEASE_LEASED, LEASE_ORPHANED, LEASE_REVOKING };

struct lease_table;
struct lease; /* counted reference while a data server uses it */

struct lease_table_options {
	uint64_t memory_bytes;   /* most to lend altogether */
	uint64_t client_bytes;   /* quota per client; 0: none */
	uint64_t keepalive_ns;   /* ORPHANED after this without a sign of life; default 15 s */
	uint64_t orphan_keep_ns; /* default 10 min */
	bool huge_pages; /* try MFD_HUGETLB, then transparent ones; falls back, saying so once */
};

struct lease_usage {
	uint64_t memory_bytes, leased_bytes;
	uint32_t leased_count, orphaned_count;
	bool huge_pages; /* in force */
};

int lease_table_open(
	const struct lease_table_options *options, struct lease_table **table) FM_MUST_USE;
void lease_table_close(struct lease_table *table);
/*
 * Memfds are going to be handed to clients (shm): no hugetlb memory from now on, write(2) does not
 * work on it. Called by a data server that opens a unix socket, before the first reserve.
 */
void lease_table_share(struct lease_table *table);
/*
 * Whoever has connections that reach a lease's memory without taking a reference (RDMA): called
 * with the lease's place (its capability's `region`) before its memory goes, or a fence is
 * answered; when it returns, nothing can touch that memory. No lock is held, no reference is out,
 * none is given until then. One at a time; NULL: none, and when this returns no call is under way.
 */
typedef void lease_cut(void *context, uint32_t place);
void lease_table_on_cut(struct lease_table *table, lease_cut *cut, void *context);
uint64_t lease_table_incarnation(const struct lease_table *table);
void lease_table_usage(struct lease_table *table, struct lease_usage *usage);

/* -ENOMEM: node's or client's quota, or the machine's memory; -EINVAL: bytes not a multiple of 4
 * KiB, 0, too large. */
int lease_reserve(struct lease_table *table, const uint8_t client[16], uint64_t bytes,
	struct fabric_capability *capability) FM_MUST_USE;
/*
 * All three: -EACCES when the capability is not right (key, lease, incarnation, epoch).
 *
 * Release and keepalive take an older epoch of the lease, too: it names the same lease under the
 * same key. A client that died between a fence's answer and writing it down can so keep the lease
 * alive, or give it back. The data plane takes only the
 * present epoch.
 */
int lease_release(
	struct lease_table *table, const struct fabric_capability *capability) FM_MUST_USE;
int lease_keepalive(
	struct lease_table *table, const struct fabric_capability *capability) FM_MUST_USE;
/* Raises the lease's epoch after cutting all connections that hold it: nothing sent before can
 * land. */
int lease_fence(struct lease_table *table, const struct fabric_capability *capability,
	struct fabric_capability *renewed) FM_MUST_USE;
/* Ages leases; called about once a second with clock_now_ns(). */
void lease_table_tick(struct lease_table *table, uint64_t now_ns);

/* For data servers. get checks the capability; every get needs its put. A revoke waits for all
 * puts. */
int lease_get(struct lease_table *table, const struct fabric_capability *capability,
	struct lease **lease) FM_MUST_USE;
void lease_put(struct lease *lease);
/*
 * The same reference again, for one operation on a lease that get accepted under this epoch: false
 * once it is revoked or fenced. Safe with the pointer of a lease long gone: places are never
 * unmapped while the table is open, and in one place no epoch comes twice. Connections hold
 * references only during an operation, so that a revoke need not look for connections.
 */
bool lease_enter(struct lease *lease, uint32_t epoch) FM_MUST_USE;
/* Still lent, and epoch unchanged? Checked for every operation; cheap. */
bool lease_valid(const struct lease *lease, uint32_t epoch);
uint8_t *lease_memory(struct lease *lease); /* the node's own mapping */
uint64_t lease_bytes(const struct lease *lease);
/*
 * Not to be closed by the caller. To be handed to clients: from then on somebody else may write,
 * truncate or punch this file, so the node's user code must not load from or store to lease_memory
 * (SIGBUS); system calls may (EFAULT). -EOPNOTSUPP for hugetlb memory, which write(2) cannot write.
 */
int lease_memfd(struct lease *lease);
/* Stores `bytes` at `offset`, through the kernel. 0, -EACCES (truncated by a client), or -errno. */
int lease_store(struct lease *lease, uint64_t offset, const void *from, size_t bytes) FM_MUST_USE;
/* Reads `bytes` at `offset`, likewise, with the same errors. */
int lease_load(struct lease *lease, uint64_t offset, void *into, size_t bytes) FM_MUST_USE;
void lease_touch(struct lease *lease); /* traffic renews */

#endif
