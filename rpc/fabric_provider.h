/*
 * rpc/fabric_provider.h: what a provider of the fabric implements. Included by rpc/fabric*.c and by the
 * simulator only.
 *
 * fabric.c keeps queues, tags, bounds and deadlines bookkeeping common to all; providers move bytes. Embed
 * struct fabric_queue_part and struct fabric_region first in your own structs if you need more.
 */
#ifndef FM_RPC_FABRIC_PROVIDER_H
#define FM_RPC_FABRIC_PROVIDER_H

#include "rpc/fabric.h"

struct fabric_ops {
	const char *name;   /* "shm" */
	const char *prefix; /* "shm:" */
	/* A peer is a queue's connection to one endpoint. */
	int (*attach)(struct fabric_queue *queue, const char *endpoint,
		const struct fabric_capability *capability, uint64_t deadline_ns,
		struct fabric_region **region);
	void (*detach)(struct fabric_region *region);
	int (*post_read)(struct fabric_region *region, const struct fabric_transfer *transfer);
	int (*post_write)(struct fabric_region *region, const struct fabric_transfer *transfer);
	/* Progress of this provider's part of the queue; appends completions through fabric_complete(). */
	void (*progress)(struct fabric_queue *queue);
	/* Sleep until something may have happened, at most until until_ns (after spinning was in vain). */
	void (*sleep)(struct fabric_queue *queue, uint64_t until_ns);
	int (*fence)(struct fabric_region *region, uint64_t deadline_ns);
	void (*queue_close)(struct fabric_queue *queue);
};

/* Makes a provider known (before any queue is opened). At most FABRIC_PROVIDERS_MAX. */
#define FABRIC_PROVIDERS_MAX 4
void fabric_provider_register(const struct fabric_ops *ops);

#endif
