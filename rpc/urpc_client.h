/*
 * rpc/urpc_client.h: the inside of a urpc client: shared by urpc_client.c (requests out, the
 * calls of rpc/urpc.h) and urpc_client_receive.c (replies in, sleeping). Not for others.
 */
#ifndef FM_RPC_URPC_CLIENT_H
#define FM_RPC_URPC_CLIENT_H

#include <stdatomic.h>

#include "rpc/spin.h"
#include "rpc/urpc.h"
#include "rpc/urpc_link.h"
#include "rpc/urpc_table.h"

#define URPC_SPIN_NS_DEFAULT 50000u
#define URPC_SPIN_NS_MIN 1000u /* less is no spinning at all */
#define URPC_REQUESTS_DEFAULT 1024u
#define URPC_LINKS_MAX 64u /* three kinds of sockets, and one per server in shared memory */

struct urpc_peer {
	struct urpc_address address;
	struct urpc_link *link;
};

struct urpc_client {
	struct urpc_client_options options;
	struct urpc_table table;
	struct urpc_peer *peers;
	uint32_t peers_count, peers_capacity;
	uint32_t *peers_by_address; /* open addressing; index of a peer + 1, 0: none */
	uint32_t peers_mask;
	uint64_t hash_key;
	struct urpc_link *links[URPC_LINKS_MAX];
	_Atomic unsigned links_count;           /* urpc_client_wake reads it */
	uint32_t finished_first, finished_last; /* completions that wait to be polled */
	uint64_t now_ns;                        /* of the last look at the clock */
	struct spin spin;
	int wake_fd; /* for sleeping on several links */
	_Atomic bool sleeping, woken;
	_Atomic bool ever_woken; /* by another thread: then links stay unconnected */
	struct urpc_client_stats stats;
	struct urpc_batch batch;
	struct urpc_address sources[URPC_BATCH_MAX];
	uint8_t *buffers;
};

/* The peer that `source` is, or URPC_NO_INDEX. */
uint32_t urpc_client_peer_at(const struct urpc_client *client, const struct urpc_address *source);
/* Its completion waits to be polled from now on. */
void urpc_client_finish(struct urpc_client *client, struct urpc_slot *slot, int status);
/* Connected links cannot be woken: none from now on. */
void urpc_client_disconnect(struct urpc_client *client);
/* Sends what slot->request says. 0 or -errno. */
int urpc_client_transmit(struct urpc_client *client, struct urpc_slot *slot);
/* Receives what is there on all links, and does what is due. */
void urpc_client_pump(struct urpc_client *client);

#endif
