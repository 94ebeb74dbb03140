/*
 * lb/pool.h: what one client knows of its servers' load: the latest sample of each, newest first.
 *
 * Used by balancer.c, which feeds it with answers to probes and with replies, and by the policies.
 *
 * Invariants:
 * 1. One sample a server at most; servers with a sample are in one list, newest first.
 * 2. A sample is of the epoch that its server had last; a new epoch discards it.
 * 3. Every operation is O(1); who walks the list bounds the walk by age and count.
 */
#ifndef FM_LB_POOL_H
#define FM_LB_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

#define POOL_NOBODY UINT32_MAX

struct sample {
	uint64_t at_ns; /* when it arrived here; meaningless unless known */
	uint32_t delay_ns;
	uint32_t epoch;     /* survives pool_forget; 0: never heard of */
	uint32_t own_sends; /* own RPCs sent there since */
	uint16_t in_flight;
	bool known;
	bool piggybacked; /* came with a reply */
	uint32_t newer, older;
};

struct pool {
	struct sample *samples;
	uint32_t count;
	uint32_t newest, oldest;
	uint32_t known_count;
};

int pool_open(struct pool *pool, unsigned servers) FM_MUST_USE;
void pool_close(struct pool *pool);
/* True: the server is another process than before (not: it was never heard of). */
bool pool_put(struct pool *pool, uint64_t now_ns, uint32_t server, const struct load *load);
void pool_forget(struct pool *pool, uint32_t server);

/* NULL: none, or it came before `since_ns`. */
static inline struct sample *pool_get(struct pool *pool, uint32_t server, uint64_t since_ns)
{
	struct sample *sample = &pool->samples[server];

	return sample->known && sample->at_ns >= since_ns ? sample : NULL;
}

#endif
