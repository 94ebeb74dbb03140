/*
 * rpc/urpc_shm.h: urpc's links through shared memory, and what both ends of them share.
 *
 * The client connects to a unix socket (SOCK_SEQPACKET); the server answers with one message: the
 * hello below, and three descriptors: the rings (a sealed memfd), the eventfd that wakes the
 * server, the eventfd that wakes this client. The socket stays open: its end is the end of the
 * connection.
 */
#ifndef FM_RPC_URPC_SHM_H
#define FM_RPC_URPC_SHM_H

#include <sys/socket.h>
#include <unistd.h>

#include "rpc/urpc_link.h"
#include "rpc/urpc_ring.h"

#define URPC_SHM_MAGIC 0x4d534d46u /* "FMSM" */
#define URPC_SHM_VERSION 1u
#define URPC_SHM_FDS 3
#define URPC_SHM_CONNECTIONS_MAX 64u /* per server */
#define URPC_SHM_UNIT URPC_UNIT_MAX
#define URPC_SHM_LOOK_NS 1000000u /* between looks at the sockets while datagrams flow */

struct urpc_shm_hello {
	uint32_t magic, version;
	uint64_t rings_bytes;
};

/* rpc/urpc_shm_server.c */
int urpc_shm_listen(const struct urpc_address *address, struct urpc_link **link) FM_MUST_USE;
/* rpc/urpc_shm_client.c. Connects when something is first sent. */
int urpc_shm_connect(const struct urpc_address *address, struct urpc_link **link) FM_MUST_USE;

/* What both ends' links have in common: rings report no errors of the network's, */
static inline size_t urpc_shm_next_error(
	struct urpc_link *link, uint8_t *bytes, size_t size, struct urpc_address *to)
{
	(void)link, (void)bytes, (void)size, (void)to;
	return 0;
}

/* and who sleeps is woken through an eventfd. */
static inline void urpc_shm_wake(struct urpc_link *link)
{
	uint64_t one = 1;

	if (write(link->fd, &one, sizeof(one)) < 0)
		return; /* its counter is full: it is awake */
}

#endif
