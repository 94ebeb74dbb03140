/*
 * rpc/fabric_provider.h: what a provider of the fabric implements. Included by rpc/fabric*.c and by
 * the simulator only.
 *
 * fabric.c keeps queues, bounds, the ring of completions and the cells regions live in; a provider
 * keeps its PART of a queue (its connections, made at the first attach) and moves bytes. A
 * provider's region struct begins with struct fabric_region and lives in a cell of
 * FABRIC_REGION_CELL_BYTES.
 *
 * Broken regions are told by generations: all regions of one connection point at that connection's
 * generation; breaking the connection raises it, and a fence writes the new one into the one region
 * it was called for.
 */
#ifndef FM_RPC_FABRIC_PROVIDER_H
#define FM_RPC_FABRIC_PROVIDER_H

#include <sys/socket.h>

#include "rpc/fabric.h"

#define FABRIC_REGIONS_MAX 16384 /* regions attached per queue */
#define FABRIC_REGION_CELL_BYTES 128

struct fabric_ops;

/* ops, provider and queue are filled in by fabric_region_reserve(), the rest by the provider's
 * attach. */
struct fabric_region {
	const struct fabric_ops *ops;
	struct fabric_queue *queue;
	uint64_t bytes;
	const uint32_t *connection_generation; /* lives as long as the region */
	uint32_t generation;                   /* up while equal to *connection_generation */
	uint32_t provider;                     /* index of ops in the table of providers */
};

struct fabric_ops {
	const char *name;   /* "shm" */
	const char *prefix; /* "shm:" */
	/* On failure no region is left reserved. */
	int (*attach)(struct fabric_queue *queue, const char *endpoint,
		const struct fabric_capability *capability, uint64_t deadline_ns,
		struct fabric_region **region);
	void (*detach)(struct fabric_region *region); /* releases the region's cell too */
	/* Called with everything checked: region up, room in the queue, 1..FABRIC_OP_BYTES_MAX
	 * bytes in range. */
	int (*post_read)(struct fabric_region *region, const struct fabric_transfer *transfer);
	int (*post_write)(struct fabric_region *region, const struct fabric_transfer *transfer);
	/* Progress of this provider's part of the queue; appends completions through
	 * fabric_complete(). */
	void (*progress)(struct fabric_queue *queue);
	/* Sleep until something may have happened, at most until until_ns (after spinning was in
	 * vain). */
	void (*sleep)(struct fabric_queue *queue, uint64_t until_ns);
	int (*fence)(struct fabric_region *region, uint64_t deadline_ns);
	void (*memory)(struct fabric_queue *queue);      /* there is a range more (fabric_memory) */
	void (*queue_close)(struct fabric_queue *queue); /* only when there is a part */
};

/* Makes a provider known (before any queue is opened). At most FABRIC_PROVIDERS_MAX. */
#define FABRIC_PROVIDERS_MAX 4
void fabric_provider_register(const struct fabric_ops *ops);

/* A zeroed cell with its struct fabric_region begun, or NULL: FABRIC_REGIONS_MAX reached. */
struct fabric_region *fabric_region_reserve(
	struct fabric_queue *queue, const struct fabric_ops *ops) FM_MUST_USE;
void fabric_region_release(struct fabric_region *region);

/* The provider's part of the queue; NULL until set. */
void *fabric_part(const struct fabric_queue *queue, const struct fabric_ops *ops);
void fabric_part_set(struct fabric_queue *queue, const struct fabric_ops *ops, void *part);
uint32_t fabric_depth(const struct fabric_queue *queue);

/* The index-th range given to fabric_memory, in the order they were given. False: no more. */
bool fabric_memory_range(const struct fabric_queue *queue, uint32_t index, struct iovec *range);
/* "10.1.2.3:7400", "[fd00::1]:7400", "localhost:7400". 0 or -EINVAL. */
int fabric_parse_address(
	const char *text, struct sockaddr_storage *address, socklen_t *length) FM_MUST_USE;

/* Completes one operation for which post_read or post_write returned, or is about to return, 0. */
void fabric_complete(struct fabric_region *region, uint64_t tag, int status);

#endif
