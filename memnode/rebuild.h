/*
 * memnode/rebuild.h: one Rebuild call (rpc/memnode.proto): slots of a region of this node filled
 * with what is read from other nodes. Used by offload.c's workers, one kit each; checks of the
 * request are for ctl_offload.c, which words the answer.
 */
#ifndef FM_MEMNODE_REBUILD_H
#define FM_MEMNODE_REBUILD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "memnode/lease.h"
#include "rpc/ctl_memnode.h"
#include "rpc/fabric.h"

/* What one worker holds while it works, and a little longer (offload.h). */
#define REBUILD_CHUNK_BYTES (512u << 10) /* of sources, read together: they fit the L2 cache */
#define REBUILD_CHUNKS 8u                /* on their way at the same time */
#define REBUILD_CHUNK_SPANSETS 64u       /* at most, in one chunk */
#define REBUILD_OUT_BYTES (REBUILD_CHUNK_SPANSETS * FM_PAGE_SIZE)
#define REBUILD_MEMORY_BYTES (REBUILD_CHUNKS * REBUILD_CHUNK_BYTES + REBUILD_OUT_BYTES)

/* What sources that do not answer, or hardly, can cost. */
#define REBUILD_ATTACH_NS (3 * NS_PER_S) /* all sources together */
#define REBUILD_READ_NS (3 * NS_PER_S)   /* one read */
#define REBUILD_CALL_NS (8 * NS_PER_S)   /* reads are begun for so long, and what the rate needs */
/* Most that a call may wait for its rate's sake. */
#define REBUILD_RATE_NS_MAX (30 * NS_PER_S)

/* Tells everybody at work to end soon. */
struct rebuild_stop {
	pthread_mutex_t mutex;
	pthread_cond_t cond; /* of CLOCK_MONOTONIC */
	_Atomic bool stopping;
};

/* A source's region, attached. Kept from call to call. */
struct rebuild_link {
	struct fabric_region *region; /* NULL: free */
	char endpoint[FABRIC_ENDPOINT_MAX];
	struct fabric_capability capability;
};

struct rebuild_kit {
	struct fabric_queue *queue; /* NULL: closed */
	uint8_t *memory;            /* REBUILD_MEMORY_BYTES */
	struct rebuild_link links[CTL_SOURCES_MAX];
};

void rebuild_stop_open(struct rebuild_stop *stop);
void rebuild_stop_close(struct rebuild_stop *stop);
void rebuild_stop_now(struct rebuild_stop *stop);
/* Sleeps until then, or until stopping. */
void rebuild_stop_wait(struct rebuild_stop *stop, uint64_t until_ns);

/* Makes a zeroed or closed kit ready; one that is ready stays as it is. 0 or -errno. */
int rebuild_kit_open(struct rebuild_kit *kit) FM_MUST_USE;
/* Gives back memory and connections. */
void rebuild_kit_close(struct rebuild_kit *kit);

/* How long its rate makes it take; 0: no rate. */
uint64_t rebuild_rate_ns(const struct ctl_rebuild *request);
/* What is wrong with a request, as far as can be seen without looking at the lease; NULL: nothing.
 * Its bounds (counts) must hold already. */
const char *rebuild_fault(const struct ctl_rebuild *request);
/*
 * Does it. 0: the outcomes are in *rebuilt. -EACCES: no such lease, -EINVAL: a slot outside the
 * region; nothing was done. -EIO: storing failed, -EAGAIN: stopped; some of it may be done.
 */
int rebuild_run(struct rebuild_kit *kit, struct lease_table *table, struct rebuild_stop *stop,
	const struct ctl_rebuild *request, struct ctl_rebuilt *rebuilt) FM_MUST_USE;

#endif
