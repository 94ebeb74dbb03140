/*
 * rpc/fabric.h: the one-sided data plane: read and write a region of a memory node, asynchronously.
 *
 * One ops table, several providers chosen by the endpoint's prefix:
 *     shm:/path/data.sock      same host: the node's memfd, handed over a unix socket
 *     tcp:ADDRESS:PORT         any machine; a numeric address ([v6] too) or "localhost": looking
 *                              names up would call malloc in the application
 *     verbs:ADDRESS:PORT       any RDMA device (InfiniBand, RoCE, iWARP, rdma_rxe): one-sided READ
 *                              and WRITE; after fabric_load_verbs() in this process
 *     sim:N                    the simulator (tests/sim), when linked in
 * and several of them, separated by commas, of one node: the first one is taken that this process
 * has (so a forked child, whose parent's RDMA connections are not its own, goes on over tcp).
 * A provider fills in what it has; an unset operation answers -EOPNOTSUPP.
 *
 * Objects. A QUEUE belongs to ONE thread at a time (nothing here locks) and carries everything that
 * thread has in flight: at most `depth` operations; the next post answers -EAGAIN. A REGION is a
 * queue's handle on one leased region of one node; regions of one node share the queue's connection
 * to that node (so separate queues are separate connections: fetches never stand behind bulk
 * writes). No malloc: memory from base/mem.h.
 *
 * Status is data. Each posted operation completes exactly once with status 0 or -errno:
 *     0            read: all bytes are in the caller's buffers; write: STORED at the node (not
 *                  merely received)
 *     -ETIMEDOUT   deadline passed. IN DOUBT: a write may still land; a read no longer touches the
 *                  buffers
 *     -ECONNRESET  the connection went. In doubt for writes, likewise
 *     -EACCES      the node refused the capability (wrong key, revoked lease, other incarnation):
 *                  not stored
 *                  (verbs: the region is broken then, too)
 *     -ERANGE      outside the region: not stored.   -ENOMEM, -EPROTO: not stored
 * The buffers of an operation belong to the fabric from post to completion. The tcp provider
 * reports a timed-out read only once nothing can write to its buffers any more (it drops that
 * connection if it must).
 *
 * After -ETIMEDOUT or -ECONNRESET the region is BROKEN: posts answer -ENOTCONN until fabric_fence()
 * succeeds.
 *
 * The fence contract (DESIGN section 6): when fabric_fence returns 0, no write posted on this
 * region before it can land any more, whatever its status was, and the region is usable again. If
 * it fails, the slots of doubtful writes stay in quarantine and the column is written off.
 */
#ifndef FM_RPC_FABRIC_H
#define FM_RPC_FABRIC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/compiler.h"

#define FABRIC_ENDPOINT_MAX 160
#define FABRIC_IOV_MAX 64              /* scatter/gather entries per operation */
#define FABRIC_DEPTH_MAX 1024          /* operations in flight per queue */
#define FABRIC_PEERS_MAX 256           /* nodes per queue */
#define FABRIC_OP_BYTES_MAX (1u << 20) /* bytes per operation */
#define FABRIC_MEMORY_MAX 16           /* ranges per queue (fabric_memory) */

/* What a node demands of whoever touches a lease (DESIGN section 6, Leases). Drawn by the node at
 * reserve. */
struct fabric_capability {
	uint8_t key[16];
	uint64_t lease;
	uint64_t incarnation;
	uint32_t epoch; /* of the lease: raised by a fence through rpc/ctl */
	uint32_t region;
};

struct fabric_completion {
	uint64_t tag;
	int32_t status; /* 0 or -errno */
	uint32_t reserved;
};

struct fabric_transfer {
	uint64_t offset;         /* bytes into the region */
	const struct iovec *iov; /* copied at post; the bytes are not */
	uint32_t iov_count;      /* 1..FABRIC_IOV_MAX */
	uint64_t tag;            /* given back with the completion */
	uint64_t deadline_ns;    /* clock_now_ns() time */
};

struct fabric_queue;
struct fabric_region;

struct fabric_queue_options {
	uint32_t depth;   /* 1..FABRIC_DEPTH_MAX */
	uint64_t spin_ns; /* fabric_wait spins this long before it sleeps */
};

/* 0 or -errno (-EINVAL, -ENOMEM, -EMFILE). */
int fabric_queue_open(
	const struct fabric_queue_options *options, struct fabric_queue **queue) FM_MUST_USE;
/* Everything in flight must have completed. Closes its regions and connections. NULL is fine. */
void fabric_queue_close(struct fabric_queue *queue);

/*
 * Makes verbs: endpoints usable in this process. Loads libfarmem-verbs.so (from FARMEM_BIN, or
 * beside this library or program), which calls malloc: before queues are opened, by a thread that
 * may. 0 (also when it is loaded already) or -errno, said in the log: -ENOENT no module, -ELIBACC
 * it does not load (no libibverbs or librdmacm), -ENOSYS no RDMA in this kernel, -EPROTO another
 * version, -EOPNOTSUPP in a forked child.
 */
int fabric_load_verbs(void) FM_MUST_USE;
bool fabric_verbs_loaded(void);

/*
 * A hint: operations of this queue will read from and write to these bytes, whose mapping stays as
 * it is (no munmap, no MADV_DONTNEED, nothing moved in or out) until the queue is closed. verbs
 * registers them with the device, and copies whatever is outside all such ranges; the others do
 * not mind. At most FABRIC_MEMORY_MAX; more are passed over.
 */
void fabric_memory(struct fabric_queue *queue, void *base, uint64_t bytes);

/*
 * Connects if need be (blocking, until deadline) and presents the capability. 0 or -errno: -EACCES
 * refused, -ECONNREFUSED/-ETIMEDOUT no node there, -EPROTO not a memory node, -ENOSPC too many
 * peers, -EINVAL endpoint, -EOPNOTSUPP nothing in the endpoint that this process has.
 */
int fabric_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region) FM_MUST_USE;
/* Nothing of this region may be in flight. NULL is fine. */
void fabric_detach(struct fabric_region *region);
/* False once broken (see head). Cheap: may be called per operation. */
bool fabric_region_up(const struct fabric_region *region);
uint64_t fabric_region_bytes(const struct fabric_region *region);

/* 0 posted; -EAGAIN queue full (poll first); -ENOTCONN broken; -ERANGE; -EINVAL. Never blocks. */
int fabric_post_read(
	struct fabric_region *region, const struct fabric_transfer *transfer) FM_MUST_USE;
int fabric_post_write(
	struct fabric_region *region, const struct fabric_transfer *transfer) FM_MUST_USE;

/* Makes progress, reaps up to `max` completions, never blocks. Returns how many (0..max). */
unsigned fabric_poll(
	struct fabric_queue *queue, struct fabric_completion *completions, unsigned max);
/*
 * Like fabric_poll, but waits (spins, then sleeps) until there is at least one completion or
 * until_ns has passed; with nothing in flight it returns at once. Deadlines of operations in flight
 * are honoured in here and in fabric_poll. Returns how many.
 */
unsigned fabric_wait(struct fabric_queue *queue, struct fabric_completion *completions,
	unsigned max, uint64_t until_ns);
/* Operations posted and not yet reaped. */
unsigned fabric_in_flight(const struct fabric_queue *queue);

/* See the head. Blocking until deadline. 0 or -errno; on failure the region stays broken. */
int fabric_fence(struct fabric_region *region, uint64_t deadline_ns) FM_MUST_USE;

#endif
