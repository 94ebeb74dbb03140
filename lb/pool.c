/*
 * lb/pool.c: the latest sample of each server, in a list by age. See pool.h.
 */
#include "lb/pool.h"

#include <errno.h>
#include <stdlib.h>

int pool_open(struct pool *pool, unsigned servers)
{
	pool->samples = calloc(servers, sizeof(*pool->samples));
	if (pool->samples == NULL)
		return -ENOMEM;
	pool->count = servers;
	pool->known_count = 0;
	pool->newest = pool->oldest = POOL_NOBODY;
	return 0;
}

void pool_close(struct pool *pool)
{
	free(pool->samples);
	pool->samples = NULL;
}

static void pool_unlink(struct pool *pool, uint32_t server)
{
	struct sample *sample = &pool->samples[server];

	if (sample->newer != POOL_NOBODY)
		pool->samples[sample->newer].older = sample->older;
	else
		pool->newest = sample->older;
	if (sample->older != POOL_NOBODY)
		pool->samples[sample->older].newer = sample->newer;
	else
		pool->oldest = sample->newer;
	pool->known_count--;
}

void pool_forget(struct pool *pool, uint32_t server)
{
	if (pool->samples[server].known)
		pool_unlink(pool, server);
	pool->samples[server].known = false;
}

bool pool_put(struct pool *pool, uint64_t now_ns, uint32_t server, const struct load *load)
{
	struct sample *sample = &pool->samples[server];
	uint32_t epoch_before = sample->epoch;

	pool_forget(pool, server);
	*sample = (struct sample){.at_ns = now_ns,
		.delay_ns = load->delay_ns,
		.epoch = load->epoch,
		.in_flight = load->in_flight,
		.known = true,
		.newer = POOL_NOBODY,
		.older = pool->newest};
	if (pool->newest != POOL_NOBODY)
		pool->samples[pool->newest].newer = server;
	else
		pool->oldest = server;
	pool->newest = server;
	pool->known_count++;
	return epoch_before != 0 && load->epoch != epoch_before;
}
