/*
 * rpc/urpc_ring.h: datagrams through a ring in memory shared with another process.
 *
 * Used by rpc/urpc_shm.c. One writer, one reader, each with its own position in its own memory;
 * what the other side says in shared memory is never believed without a check.
 *
 * Invariants:
 * 1. Positions count bytes from 0 on and only grow. head <= tail <= head + URPC_RING_BYTES.
 * 2. A record lies in one stretch; where it would go round the corner a filler comes first.
 * 3. A record is copied out before anything in it is looked at, except its length, which is read
 *    once and checked.
 * 4. A peer that breaks 1 to 3 gets -EPROTO, and its connection is closed.
 */
#ifndef FM_RPC_URPC_RING_H
#define FM_RPC_URPC_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/compiler.h"

#define URPC_RING_BYTES (256u << 10)

struct urpc_ring {
	FM_ALIGNED(FM_CACHE_LINE) _Atomic uint64_t tail; /* the writer's */
	FM_ALIGNED(FM_CACHE_LINE) _Atomic uint64_t head; /* the reader's */
	FM_ALIGNED(FM_CACHE_LINE) _Atomic uint32_t reader_sleeps;
	FM_ALIGNED(FM_CACHE_LINE) uint8_t bytes[URPC_RING_BYTES];
};

/* The two directions of a connection: this is what is shared. */
struct urpc_rings {
	struct urpc_ring to_server, to_client;
};

/* 0; -EAGAIN: no room at the moment; -EPROTO. *position: the writer's own. */
int urpc_ring_put(struct urpc_ring *ring, uint64_t *position, const struct iovec *iov,
	size_t iov_count, uint64_t stamp_ns);
/* The length, with stamp_ns; 0: the ring is empty; -EPROTO. *position: the reader's own. */
int urpc_ring_get(
	struct urpc_ring *ring, uint64_t *position, void *bytes, size_t size, uint64_t *stamp_ns);

/* Reader: about to sleep. True: do not, something has come. */
static inline bool urpc_ring_arm(struct urpc_ring *ring, uint64_t position)
{
	/* seq_cst: pairs with urpc_ring_wants_wake: the writer sees us sleep or we see its record
	 */
	atomic_store(&ring->reader_sleeps, 1);
	return atomic_load(&ring->tail) != position;
}

static inline void urpc_ring_disarm(struct urpc_ring *ring)
{
	if (atomic_load_explicit(&ring->reader_sleeps, memory_order_relaxed))
		atomic_store_explicit(&ring->reader_sleeps, 0, memory_order_relaxed);
}

/* Writer: after a put. True: the reader is to be woken; false for everybody who asks next. */
static inline bool urpc_ring_wants_wake(struct urpc_ring *ring)
{
	return atomic_load(&ring->reader_sleeps) != 0 && atomic_exchange(&ring->reader_sleeps, 0);
}

#endif
