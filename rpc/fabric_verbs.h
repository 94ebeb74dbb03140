/*
 * rpc/fabric_verbs.h: what the files of the verbs provider (libfarmem-verbs.so) share:
 *   fabric_verbs.c           the module's door, attach, fence, detach, waiting
 *   fabric_verbs_connect.c   connections by rdma_cm
 *   fabric_verbs_io.c        posting in chains, completions, deadlines, breaking
 *   fabric_verbs_memory.c    devices, registered memory, bounce buffers
 *   fabric_verbs_host.c      the fabric's functions, as fabric_provider.h and base/ declare them
 *
 * A LINK is one connection: one RC queue pair, to one lease (the node keeps a protection domain per
 * lease, so that ending a lease ends exactly its queue pairs). A PEER is a node: what shows that
 * the node is gone (a retry count exceeded, a deadline passed) breaks all links to it at once, so
 * that nobody waits 0.5 s for each. A DEVICE is one RDMA device as this queue uses it: one
 * protection domain, one completion queue, the registered memory. Nothing is shared between queues.
 */
#ifndef FM_RPC_FABRIC_VERBS_H
#define FM_RPC_FABRIC_VERBS_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "rpc/fabric_module.h"
#include "rpc/wire.h"

#define VERBS_NONE UINT32_MAX
#define VERBS_DEVICES_MAX 4    /* per queue */
#define VERBS_QP_DEPTH 128u    /* operations in flight per link; a post more: -EAGAIN */
#define VERBS_CHAIN_MAX 32u    /* posted with one doorbell */
#define VERBS_SGE_MAX 16u      /* pieces of an operation; more are gathered in a bounce buffer */
#define VERBS_INLINE_BYTES 64u /* asked of the device; it may give more or none */
#define VERBS_BOUNCE_BYTES (2u << 20)
#define VERBS_BOUNCE_BLOCK 4096u
#define VERBS_BOUNCE_BLOCKS (VERBS_BOUNCE_BYTES / VERBS_BOUNCE_BLOCK)
/*
 * A node that is gone is known after (RETRIES + 1) * 4.096 us * 2^TIMEOUT = 0.48 s, a stall of
 * 0.3 s is survived (measured on rdma_rxe). 7 retries mean "for ever" to some devices: never that.
 */
#define VERBS_ACK_TIMEOUT 14u
#define VERBS_RETRIES 6u
#define VERBS_READS_IN_FLIGHT 16u /* asked of the device, per queue pair */
#define VERBS_LOOK_NS 1000000ull  /* the event channel is looked at no more often while polling */

/* One registered range: of the queue's (fabric_memory), in their order. mr NULL: it was refused. */
struct verbs_memory {
	struct iovec range;
	struct ibv_mr *mr;
};

struct verbs_device {
	struct ibv_context *context; /* librdmacm's */
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	bool armed; /* an event is asked for and has not come */
	uint32_t sge_max, reads_max;
	uint32_t memory_count;
	struct verbs_memory memory[FABRIC_MEMORY_MAX];
	uint8_t *bounce;
	struct ibv_mr *bounce_mr;
	uint64_t bounce_used[VERBS_BOUNCE_BLOCKS / 64]; /* a bit per block */
};

struct verbs_op {
	struct ibv_send_wr wr;
	struct ibv_sge sge[VERBS_SGE_MAX];
	struct verbs_link *link; /* NULL: free */
	uint64_t tag, deadline_ns;
	uint32_t serial; /* of its use: completions of earlier uses are told apart by it */
	uint32_t next;   /* in the link's fifo, or in the free list */
	uint32_t bounce_first, bounce_count; /* blocks; count 0: none */
	bool read;
	uint32_t iov_count; /* of a read through a bounce buffer: where its bytes go */
	struct iovec iov[FABRIC_IOV_MAX];
};

enum verbs_phase {
	VERBS_IDLE,
	VERBS_RESOLVING,
	VERBS_ROUTING,
	VERBS_CONNECTING,
	VERBS_UP,
	VERBS_OVER
};

struct verbs_peer {
	uint32_t links_count; /* 0: this peer is free */
	char endpoint[FABRIC_ENDPOINT_MAX];
};

struct verbs_link {
	struct verbs_part *part;
	struct verbs_peer *peer; /* NULL: this link is free */
	struct verbs_region *region;
	struct verbs_device *device;
	struct rdma_cm_id *id; /* NULL: not connected */
	enum verbs_phase phase;
	int error; /* VERBS_OVER: why */
	uint32_t generation;
	uint32_t inline_max;
	uint32_t first, last;  /* fifo of operations, in the order posted = of their completions */
	uint32_t unsent;       /* the first of them that no doorbell was rung for; or VERBS_NONE */
	uint32_t unsent_count; /* of them */
	uint32_t in_flight;
	uint32_t next_unsent; /* list of links with unsent operations */
	uint32_t next_free;
	uint64_t connection; /* the id the node drew */
	uint64_t unfenced;   /* id of a broken connection whose writes may still land; 0: none */
	uint64_t address;    /* of the region at the node */
	uint32_t rkey;
	bool failed; /* to be broken: see verbs_break_failed */
	bool gone;   /* and with it all links to the node */
	uint32_t failed_op;
	int failed_status;
	struct wire_verbs_answer answer;
};

struct verbs_region {
	struct fabric_region head;
	struct verbs_link *link;
	struct fabric_capability capability;
};

struct verbs_part {
	struct fabric_queue *queue;
	struct rdma_event_channel *channel; /* nonblocking */
	uint64_t looked_ns;
	uint64_t next_deadline_ns; /* no operation's deadline is earlier */
	uint32_t ops_count, ops_used, ops_free;
	uint32_t links_used, links_free, links_failed;
	uint32_t unsent; /* list of links with unsent operations */
	uint32_t devices_count, peers_used;
	struct verbs_device devices[VERBS_DEVICES_MAX];
	struct verbs_peer peers[FABRIC_PEERS_MAX];
	struct verbs_link *links; /* FABRIC_REGIONS_MAX, touched as used */
	size_t bytes;             /* of this mapping */
	struct verbs_op ops[];
};

/* fabric_verbs_host.c */
extern const struct fabric_module_host *verbs_host;
void verbs_warn(const char *format, ...) FM_PRINTF(1, 2);
/* "cannot pin so much for that: what to do", when error is a refusal for lack of room. */
void verbs_warn_memory(const char *what, uint64_t bytes, int error);

/* fabric_verbs_connect.c */
/*
 * Connects the link, showing its region's capability; fences link->unfenced. 0 or -errno as of
 * fabric_attach; then nothing is left of it.
 */
int verbs_connect(struct verbs_link *link, uint64_t deadline_ns) FM_MUST_USE;
/* Takes what the event channel has to say; links that are over are marked failed. */
void verbs_events(struct verbs_part *part);
/* Ends the connection: nothing can touch local buffers afterwards. Idempotent. */
void verbs_disconnect(struct verbs_link *link);

/* fabric_verbs_io.c */
struct verbs_op *verbs_op_take(struct verbs_part *part);
void verbs_op_give(struct verbs_part *part, struct verbs_op *op);
/* Appends it to the link's fifo; its doorbell is rung by verbs_flush at the latest. */
void verbs_op_submit(struct verbs_link *link, struct verbs_op *op);
void verbs_flush(struct verbs_part *part);
/* Takes completions. Returns how many there were. */
unsigned verbs_reap(struct verbs_part *part);
/* Breaks links with an operation that is too late, and all to the same node. */
void verbs_expire(struct verbs_part *part, uint64_t now_ns);
/* Marks a link to be broken by verbs_break_failed. */
void verbs_fail(struct verbs_link *link, uint32_t op, int status, bool gone);
void verbs_break_failed(struct verbs_part *part);
/*
 * Ends the connection and completes its operations: `op` with `status`, those late at now_ns (0:
 * none is) -ETIMEDOUT, the others -ECONNRESET.
 */
void verbs_break(struct verbs_link *link, uint32_t op, int status, uint64_t now_ns);

/* fabric_verbs_memory.c */
/* The device of this context, opened if need be. 0, -ENOMEM, -ENOSPC or -errno. */
int verbs_device_find(struct verbs_part *part, struct ibv_context *context,
	struct verbs_device **device) FM_MUST_USE;
/* Registers what the queue was told of and the device does not know yet. */
void verbs_device_learn(struct verbs_part *part, struct verbs_device *device);
void verbs_device_close(struct verbs_device *device);
/*
 * Fills op->wr.sg_list for these bytes: where they are, when the device can reach them, else in a
 * bounce buffer, copied there for a write. 0, or -EAGAIN: no room for that now.
 */
int verbs_map(struct verbs_link *link, struct verbs_op *op, const struct fabric_transfer *transfer,
	uint32_t bytes) FM_MUST_USE;
/* Copies what a read brought into the bounce buffer to its place, if `good`, and gives it back. */
void verbs_unmap(struct verbs_device *device, struct verbs_op *op, bool good);

#endif
