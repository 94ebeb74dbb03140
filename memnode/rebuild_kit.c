/*
 * memnode/rebuild_kit.c: what a worker needs for rebuilding, and what a request must look like; see
 * rebuild.h. The work itself is rebuild.c's.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"
#include "ec/ec.h"
#include "memnode/rebuild.h"

FM_BUILD_ASSERT(REBUILD_ATTACH_NS + REBUILD_CALL_NS + REBUILD_READ_NS < CTL_REBUILD_NS,
	"a client that waits so long does get its answer");
FM_BUILD_ASSERT(CTL_SOURCES_MAX >= EC_K_MAX, "k sources find room");
FM_BUILD_ASSERT(REBUILD_CHUNK_BYTES >= EC_K_MAX * FM_PAGE_SIZE, "a chunk holds a spanset");

void rebuild_stop_open(struct rebuild_stop *stop)
{
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_mutex_init(&stop->mutex, NULL);
	pthread_cond_init(&stop->cond, &attributes);
	pthread_condattr_destroy(&attributes);
	atomic_store(&stop->stopping, false);
}

void rebuild_stop_close(struct rebuild_stop *stop)
{
	pthread_cond_destroy(&stop->cond);
	pthread_mutex_destroy(&stop->mutex);
}

void rebuild_stop_now(struct rebuild_stop *stop)
{
	pthread_mutex_lock(&stop->mutex);
	atomic_store(&stop->stopping, true);
	pthread_cond_broadcast(&stop->cond);
	pthread_mutex_unlock(&stop->mutex);
}

void rebuild_stop_wait(struct rebuild_stop *stop, uint64_t until_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};
	int error = 0;
	pthread_mutex_lock(&stop->mutex);
	while (!atomic_load(&stop->stopping) && error == 0)
		error = pthread_cond_timedwait(&stop->cond, &stop->mutex, &until);
	pthread_mutex_unlock(&stop->mutex);
}

int rebuild_kit_open(struct rebuild_kit *kit)
{
	/* No spinning: who waits here had better leave the CPU to the data plane. */
	static const struct fabric_queue_options options = {.depth = FABRIC_DEPTH_MAX};
	if (kit->queue)
		return 0;
	kit->memory = mem_map_huge(REBUILD_MEMORY_BYTES);
	if (!kit->memory)
		return -ENOMEM;
	int error = fabric_queue_open(&options, &kit->queue);
	if (error) {
		mem_unmap(kit->memory, REBUILD_MEMORY_BYTES);
		kit->memory = NULL;
		kit->queue = NULL;
	}
	return error;
}

void rebuild_kit_close(struct rebuild_kit *kit)
{
	fabric_queue_close(kit->queue); /* and with it the links */
	mem_unmap(kit->memory, REBUILD_MEMORY_BYTES);
	memset(kit, 0, sizeof(*kit));
}

static bool endpoint_is_possible(const char *endpoint)
{
	if (strncmp(endpoint, "tcp:", 4) != 0 && strncmp(endpoint, "shm:/", 5) != 0)
		return false;
	for (const char *at = endpoint; *at; at++)
		if (*at <= ' ' || *at >= 0x7f)
			return false;
	return true;
}

static bool request_copies(const struct ctl_rebuild *request)
{
	return request->sources_count == 1 && request->sources[0].position == request->position;
}

static const char *sources_fault(const struct ctl_rebuild *request)
{
	uint32_t seen = request_copies(request) ? 0 : 1u << request->position;
	for (unsigned i = 0; i < request->sources_count; i++) {
		const struct ctl_source *source = &request->sources[i];
		if (source->position >= request->k + request->m)
			return "a source's position is not in the code";
		if (seen & 1u << source->position)
			return "two sources, or a source and the target, have the same position";
		seen |= 1u << source->position;
		if (!endpoint_is_possible(source->endpoint))
			return "an endpoint is neither tcp:ADDRESS:PORT nor shm:/PATH";
	}
	return NULL;
}

uint64_t rebuild_rate_ns(const struct ctl_rebuild *request)
{
	const uint32_t piece = request->piece_bytes ? request->piece_bytes : FM_PAGE_SIZE;
	const uint64_t bytes = request->count * (uint64_t)piece;
	return request->rate_bytes_per_s != 0 ? bytes * NS_PER_S / request->rate_bytes_per_s : 0;
}

const char *rebuild_fault(const struct ctl_rebuild *request)
{
	if (request->k < 1 || request->k > EC_K_MAX || request->m > EC_M_MAX)
		return "k must be 1..16, m 0..4";
	if (request->position >= request->k + request->m)
		return "the target's position is not in the code";
	if (request->piece_bytes != 0 &&
		(request->piece_bytes < CTL_PIECE_MIN || FM_PAGE_SIZE % request->piece_bytes != 0))
		return "pieces have 256, 512, 1024, 2048 or 4096 bytes";
	if (request->count < 1 || request->count > CTL_REBUILD_MAX)
		return "1..4096 spansets at once";
	if (request->sources_count != request->k && !request_copies(request))
		return "k sources, or one of the target's position";
	if (rebuild_rate_ns(request) > REBUILD_RATE_NS_MAX)
		return "so slow a rate wants fewer spansets at once";
	for (uint32_t i = 0; i < request->count * (1u + request->sources_count); i++)
		if (request->pieces[i].slot >= REGION_BYTES_MAX / FM_PAGE_SIZE)
			return "no region has such a slot";
	return sources_fault(request);
}
