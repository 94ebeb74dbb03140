/*
 * rpc/fabric_tcp.h: shared by fabric_tcp.c (connections, attach, fence) and fabric_tcp_io.c (the
 * stream of requests and replies on one connection). Nobody else includes it.
 */
#ifndef FM_RPC_FABRIC_TCP_H
#define FM_RPC_FABRIC_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include "rpc/fabric_provider.h"
#include "rpc/wire.h"

#define TCP_NONE UINT32_MAX
#define TCP_IOV_MAX 128 /* entries per sendmsg or recvmsg */

/* A request in flight. Lives in the part's table; linked by index. Last used, first reused: few are
 * touched. */
struct tcp_op {
	struct tcp_region *region; /* NULL: a control operation (attach, fence) */
	uint64_t tag;              /* the caller's */
	uint64_t wire_tag;
	uint64_t deadline_ns;
	uint32_t next;           /* in the peer's fifo, or in the free list */
	uint32_t payload_bytes;  /* of the request (write, control) or of the reply (read) */
	uint32_t sent_bytes;     /* of request header and payload */
	uint32_t received_bytes; /* of reply header and payload */
	uint32_t iov_count;
	uint8_t op; /* enum wire_op */
	uint8_t request[WIRE_HEADER_BYTES];
	uint8_t reply[WIRE_HEADER_BYTES];
	struct iovec iov[FABRIC_IOV_MAX];
};

/* A queue's connection to one node. */
struct tcp_peer {
	int socket; /* -1: broken */
	uint32_t generation;
	uint32_t regions_count; /* 0: this peer is free */
	uint32_t first, last;   /* fifo of operations, in the order posted = of their replies */
	uint32_t unsent;        /* the first of them not wholly sent; TCP_NONE: all are */
	uint32_t next_active;   /* list of peers with a non-empty fifo */
	uint64_t connection;    /* id the node drew */
	uint64_t unfenced;    /* id of a dropped connection whose writes may still land; 0: none */
	uint64_t incarnation; /* of the node, as of its last hello */
	uint64_t looked_ns;   /* last time an idle connection was looked at */
	char endpoint[FABRIC_ENDPOINT_MAX];
};

struct tcp_region {
	struct fabric_region head;
	struct tcp_peer *peer;
	uint32_t handle;
	struct fabric_capability capability;
};

struct tcp_part {
	uint32_t ops_free;  /* free list */
	uint32_t ops_used;  /* ops ever used */
	uint32_t ops_count; /* depth + 1: one control operation at a time */
	uint32_t active;    /* list of peers with a non-empty fifo */
	uint32_t peers_used;
	uint64_t wire_tag;         /* counts up */
	uint64_t next_deadline_ns; /* no operation's deadline is earlier */
	/* Result of the control operation. */
	bool control_done;
	int control_status;
	struct wire_header control_reply;
	size_t bytes; /* of this mapping */
	struct tcp_peer peers[FABRIC_PEERS_MAX];
	struct tcp_op ops[];
};

/* A free operation with region, op and times filled in; the caller sets iov and payload_bytes.
 * Never fails: fabric.c bounds what is in flight. */
struct tcp_op *tcp_op_take(
	struct tcp_part *part, struct tcp_region *region, uint8_t op, uint64_t deadline_ns);
/* Appends it to the peer's fifo and sends what the socket takes. May break the peer. */
void tcp_op_submit(struct tcp_part *part, struct tcp_peer *peer, struct tcp_op *op);
/* Sends and receives what can be without blocking. May break the peer. */
void tcp_peer_progress(struct tcp_part *part, struct tcp_peer *peer);
/* Breaks peers with an operation that is too late, and finds the next deadline. */
void tcp_expire(struct tcp_part *part, uint64_t now_ns);
/* Drops the connection and completes all of its operations: late ones (at now_ns; 0: none is)
 * -ETIMEDOUT, the others -ECONNRESET. Breaks its regions. */
void tcp_peer_break(struct tcp_part *part, struct tcp_peer *peer, uint64_t now_ns);

#endif
