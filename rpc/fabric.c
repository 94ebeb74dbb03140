/*
 * rpc/fabric.c: what all providers of the fabric share: queues, the bound on what is in flight, the
 * ring of completions, the cells regions live in, and the choice of a provider by the endpoint's
 * prefix.
 *
 * Called by farmem/ (spanset.c, evict.c through it), the agent and memory nodes. One thread per
 * queue; the only global is the table of providers, written before the first queue opens.
 *
 * Invariants
 *   1. in_flight = sum of pending + ready_count <= depth: so the ring of completions cannot
 *      overflow.
 *   2. Every operation for which post returned 0 is completed exactly once (FM_ASSERT on pending).
 *   3. A region is up exactly while its generation equals its connection's.
 */
#include "rpc/fabric.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "rpc/fabric_provider.h"
#include "rpc/spin.h"

/* With operations pending at more than one provider, each sleeps at most so long before the other's
 * turn. */
#define FABRIC_SLEEP_SLICE_NS (200 * NS_PER_US)

extern const struct fabric_ops fabric_shm_ops;
extern const struct fabric_ops fabric_tcp_ops;
extern struct fabric_ops fabric_verbs_ops;

static const struct fabric_ops *fabric_providers[FABRIC_PROVIDERS_MAX] = {
	&fabric_shm_ops,
	&fabric_tcp_ops,
	&fabric_verbs_ops,
};
static uint32_t fabric_providers_count = 3;

union fabric_cell {
	struct fabric_region region;
	uint8_t bytes[FABRIC_REGION_CELL_BYTES];
	uint32_t next_free; /* index + 1 of the next free cell; 0: none */
};

struct fabric_queue {
	uint64_t spin_ns;
	struct spin spin;
	uint32_t depth;
	uint32_t in_flight;
	uint32_t pending[FABRIC_PROVIDERS_MAX]; /* posted, not completed */
	void *parts[FABRIC_PROVIDERS_MAX];
	uint32_t ready_first, ready_count; /* completed, not reaped */
	uint32_t cells_free;               /* index + 1 */
	uint32_t cells_used;               /* cells ever handed out */
	uint32_t regions_count;
	uint32_t memory_count;
	struct iovec memory[FABRIC_MEMORY_MAX];
	union fabric_cell *cells;         /* FABRIC_REGIONS_MAX, touched as used */
	struct fabric_completion ready[]; /* depth */
};

void fabric_provider_register(const struct fabric_ops *ops)
{
	FM_ASSERT_LT(fabric_providers_count, FABRIC_PROVIDERS_MAX);
	fabric_providers[fabric_providers_count++] = ops;
}

static size_t queue_bytes(uint32_t depth)
{
	return sizeof(struct fabric_queue) + depth * sizeof(struct fabric_completion);
}

#define CELLS_BYTES ((size_t)FABRIC_REGIONS_MAX * sizeof(union fabric_cell))

int fabric_queue_open(const struct fabric_queue_options *options, struct fabric_queue **queue)
{
	*queue = NULL;
	if (options->depth == 0 || options->depth > FABRIC_DEPTH_MAX)
		return -EINVAL;
	struct fabric_queue *q = mem_map(queue_bytes(options->depth));
	if (!q)
		return -ENOMEM;
	q->cells = mem_map(CELLS_BYTES);
	if (!q->cells) {
		mem_unmap(q, queue_bytes(options->depth));
		return -ENOMEM;
	}
	q->depth = options->depth;
	q->spin_ns = options->spin_ns;
	*queue = q;
	return 0;
}

/* Detaches what the caller left attached: cells in use are those whose ops are set (release zeroes
 * them). */
static void queue_detach_all(struct fabric_queue *queue)
{
	for (uint32_t i = 0; i < queue->cells_used && queue->regions_count; i++)
		if (queue->cells[i].region.queue == queue)
			fabric_detach(&queue->cells[i].region);
}

void fabric_queue_close(struct fabric_queue *queue)
{
	if (!queue)
		return;
	FM_ASSERT_EQ(queue->in_flight, queue->ready_count);
	queue_detach_all(queue);
	for (uint32_t i = 0; i < fabric_providers_count; i++)
		if (queue->parts[i])
			fabric_providers[i]->queue_close(queue);
	mem_unmap(queue->cells, CELLS_BYTES);
	mem_unmap(queue, queue_bytes(queue->depth));
}

/* One of the endpoint's alternatives. */
static int attach_one(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	for (uint32_t i = 0; i < fabric_providers_count; i++) {
		const struct fabric_ops *ops = fabric_providers[i];
		if (strncmp(endpoint, ops->prefix, strlen(ops->prefix)) != 0)
			continue;
		if (!ops->attach)
			return -EOPNOTSUPP;
		return ops->attach(queue, endpoint, capability, deadline_ns, region);
	}
	return -EINVAL;
}

int fabric_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	int r = -EOPNOTSUPP;
	*region = NULL;
	if (strnlen(endpoint, FABRIC_ENDPOINT_MAX) >= FABRIC_ENDPOINT_MAX)
		return -EINVAL;
	/* a unix socket's path may have commas: shm stands alone */
	if (strncmp(endpoint, fabric_shm_ops.prefix, strlen(fabric_shm_ops.prefix)) == 0)
		return attach_one(queue, endpoint, capability, deadline_ns, region);
	for (const char *at = endpoint; r == -EOPNOTSUPP; at++) {
		char one[FABRIC_ENDPOINT_MAX];
		const size_t length = strcspn(at, ",");
		memcpy(one, at, length);
		one[length] = '\0';
		r = attach_one(queue, one, capability, deadline_ns, region);
		at += length;
		if (!*at)
			break;
	}
	return r;
}

void fabric_memory(struct fabric_queue *queue, void *base, uint64_t bytes)
{
	if (queue->memory_count == FABRIC_MEMORY_MAX || bytes == 0)
		return;
	queue->memory[queue->memory_count++] = (struct iovec){base, bytes};
	for (uint32_t i = 0; i < fabric_providers_count; i++)
		if (queue->parts[i] && fabric_providers[i]->memory)
			fabric_providers[i]->memory(queue);
}

bool fabric_memory_range(const struct fabric_queue *queue, uint32_t index, struct iovec *range)
{
	if (index >= queue->memory_count)
		return false;
	*range = queue->memory[index];
	return true;
}

void fabric_detach(struct fabric_region *region)
{
	if (region)
		region->ops->detach(region);
}

bool fabric_region_up(const struct fabric_region *region)
{
	return region->generation == *region->connection_generation;
}

uint64_t fabric_region_bytes(const struct fabric_region *region)
{
	return region->bytes;
}

static int post_check(const struct fabric_region *region, const struct fabric_transfer *transfer)
{
	if (fm_unlikely(transfer->iov_count == 0 || transfer->iov_count > FABRIC_IOV_MAX))
		return -EINVAL;
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < transfer->iov_count; i++) {
		if (transfer->iov[i].iov_len > FABRIC_OP_BYTES_MAX)
			return -EINVAL;
		bytes += transfer->iov[i].iov_len;
	}
	if (fm_unlikely(bytes == 0 || bytes > FABRIC_OP_BYTES_MAX))
		return -EINVAL;
	if (fm_unlikely(
		    transfer->offset > region->bytes || bytes > region->bytes - transfer->offset))
		return -ERANGE;
	if (fm_unlikely(!fabric_region_up(region)))
		return -ENOTCONN;
	return fm_unlikely(region->queue->in_flight >= region->queue->depth) ? -EAGAIN : 0;
}

static int post(struct fabric_region *region, const struct fabric_transfer *transfer,
	int (*provider_post)(struct fabric_region *, const struct fabric_transfer *))
{
	int r = post_check(region, transfer);
	if (fm_unlikely(r))
		return r;
	if (fm_unlikely(!provider_post))
		return -EOPNOTSUPP;
	struct fabric_queue *queue = region->queue;
	queue->in_flight++;
	queue->pending[region->provider]++;
	r = provider_post(region, transfer);
	if (fm_unlikely(r)) {
		queue->in_flight--;
		queue->pending[region->provider]--;
	}
	return r;
}

int fabric_post_read(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return post(region, transfer, region->ops->post_read);
}

int fabric_post_write(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return post(region, transfer, region->ops->post_write);
}

void fabric_complete(struct fabric_region *region, uint64_t tag, int status)
{
	struct fabric_queue *queue = region->queue;
	FM_ASSERT_LT(0, queue->pending[region->provider]); /* invariant 2 */
	FM_ASSERT_LT(queue->ready_count, queue->depth);    /* invariant 1 */
	queue->pending[region->provider]--;
	uint32_t at = queue->ready_first + queue->ready_count;
	if (at >= queue->depth)
		at -= queue->depth;
	queue->ready[at] = (struct fabric_completion){.tag = tag, .status = status};
	queue->ready_count++;
}

static void queue_progress(struct fabric_queue *queue)
{
	for (uint32_t i = 0; i < fabric_providers_count; i++)
		if (queue->parts[i])
			fabric_providers[i]->progress(queue);
}

static unsigned queue_reap(
	struct fabric_queue *queue, struct fabric_completion *completions, unsigned max)
{
	unsigned count = 0;
	while (count < max && queue->ready_count) {
		completions[count++] = queue->ready[queue->ready_first];
		queue->ready_first =
			queue->ready_first + 1 == queue->depth ? 0 : queue->ready_first + 1;
		queue->ready_count--;
		queue->in_flight--;
	}
	return count;
}

unsigned fabric_poll(
	struct fabric_queue *queue, struct fabric_completion *completions, unsigned max)
{
	/* All that is in flight is ready already (the usual case on shm): no need to look further.
	 */
	if (queue->ready_count == 0 || queue->ready_count < queue->in_flight)
		queue_progress(queue);
	return queue_reap(queue, completions, max);
}

static void queue_sleep(struct fabric_queue *queue, uint64_t until_ns)
{
	uint32_t busy_count = 0;
	for (uint32_t i = 0; i < fabric_providers_count; i++)
		busy_count += queue->pending[i] != 0;
	for (uint32_t i = 0; i < fabric_providers_count; i++) {
		if (!queue->pending[i])
			continue;
		uint64_t until = until_ns;
		if (busy_count > 1)
			until = FM_MIN(until_ns, clock_now_ns() + FABRIC_SLEEP_SLICE_NS);
		if (fabric_providers[i]->sleep)
			fabric_providers[i]->sleep(queue, until);
		else
			clock_pause(until);
	}
}

unsigned fabric_wait(struct fabric_queue *queue, struct fabric_completion *completions,
	unsigned max, uint64_t until_ns)
{
	unsigned count = fabric_poll(queue, completions, max);
	if (count || max == 0 || queue->in_flight == 0)
		return count;
	uint64_t now = clock_now_ns();
	const bool spin = queue->spin_ns && spin_is_worth_it(&queue->spin);
	const uint64_t spin_until = spin ? now + queue->spin_ns : now;
	while (now < until_ns && now < spin_until) {
		fm_cpu_relax();
		count = fabric_poll(queue, completions, max);
		if (count || queue->in_flight == 0) {
			spin_note(&queue->spin, true);
			return count;
		}
		now = clock_now_ns();
	}
	if (spin)
		spin_note(&queue->spin, false);
	while (now < until_ns) {
		queue_sleep(queue, until_ns);
		count = fabric_poll(queue, completions, max);
		if (count || queue->in_flight == 0)
			break;
		now = clock_now_ns();
	}
	return count;
}

unsigned fabric_in_flight(const struct fabric_queue *queue)
{
	return queue->in_flight;
}

int fabric_fence(struct fabric_region *region, uint64_t deadline_ns)
{
	return region->ops->fence ? region->ops->fence(region, deadline_ns) : -EOPNOTSUPP;
}

static uint32_t provider_index(const struct fabric_ops *ops)
{
	uint32_t i = 0;
	while (i < fabric_providers_count && fabric_providers[i] != ops)
		i++;
	FM_ASSERT_LT(i, fabric_providers_count);
	return i;
}

struct fabric_region *fabric_region_reserve(
	struct fabric_queue *queue, const struct fabric_ops *ops)
{
	union fabric_cell *cell;
	if (queue->cells_free) {
		cell = &queue->cells[queue->cells_free - 1];
		queue->cells_free = cell->next_free;
	} else if (queue->cells_used < FABRIC_REGIONS_MAX) {
		cell = &queue->cells[queue->cells_used++];
	} else {
		return NULL;
	}
	memset(cell, 0, sizeof(*cell));
	cell->region.ops = ops;
	cell->region.queue = queue;
	cell->region.provider = provider_index(ops);
	queue->regions_count++;
	return &cell->region;
}

void fabric_region_release(struct fabric_region *region)
{
	struct fabric_queue *queue = region->queue;
	union fabric_cell *cell = FM_CONTAINER_OF(region, union fabric_cell, region);
	memset(cell, 0, sizeof(*cell));
	cell->next_free = queue->cells_free;
	queue->cells_free = (uint32_t)(cell - queue->cells) + 1;
	queue->regions_count--;
}

void *fabric_part(const struct fabric_queue *queue, const struct fabric_ops *ops)
{
	return queue->parts[provider_index(ops)];
}

void fabric_part_set(struct fabric_queue *queue, const struct fabric_ops *ops, void *part)
{
	queue->parts[provider_index(ops)] = part;
}

uint32_t fabric_depth(const struct fabric_queue *queue)
{
	return queue->depth;
}
