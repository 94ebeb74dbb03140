/*
 * memnode/ctl_service.h: the node's half of rpc/memnode.proto, and grpc.health.v1: a method table
 * for rpc/ctl_server.h whose handlers work on a lease table. Handlers are thread-safe.
 */
#ifndef FM_MEMNODE_CTL_SERVICE_H
#define FM_MEMNODE_CTL_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "memnode/data_verbs.h"
#include "memnode/lease.h"
#include "memnode/offload.h"
#include "rpc/ctl_memnode.h"

struct ctl_service_options {
	struct lease_table *table;
	struct offload *offload;
	const char *name;         /* texts must outlive the service */
	const char *host;         /* machine identity */
	const char *data_path;    /* "" : no shm data plane */
	uint16_t data_port;       /* 0: no tcp data plane */
	struct data_verbs *verbs; /* NULL: no RDMA */
	/* Reserves at once; further ones are UNAVAILABLE, so that keepalives find a thread. */
	unsigned reserves_max;
};

struct ctl_service {
	struct ctl_service_options options;
	uint64_t started_ns;
	_Atomic bool draining;
	_Atomic uint32_t calls_running; /* keepalives */
	_Atomic uint32_t reserves_running;
};

void ctl_service_open(struct ctl_service *service, const struct ctl_service_options *options);
/* The node is about to leave: health checks answer NOT_SERVING, Reserve UNAVAILABLE, and Load says
 * so, from now on; the rest goes on. */
void ctl_service_drain(struct ctl_service *service);
/* Nothing is lent, nor about to be. True of a draining service: nothing ever will be again. */
bool ctl_service_is_empty(struct ctl_service *service);
/* Draining, and calls of the offload end soon. Before ctl_server_close, which waits for them. */
void ctl_service_stop(struct ctl_service *service);
/* The table; its handlers take a struct ctl_service * as context. */
const struct ctl_method *ctl_service_methods(unsigned *count);

#endif
