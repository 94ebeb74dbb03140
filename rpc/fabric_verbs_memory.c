/*
 * rpc/fabric_verbs_memory.c: devices as one queue uses them, and the memory they can reach.
 *
 * A device reads and writes local memory by physical address, pinned at registration: the hint
 * fabric_memory() names ranges whose mapping stays; they are registered once per device and queue,
 * and operations on them cost no copy. Everything else goes through a bounce buffer: one memcpy.
 * Pages that are moved in and out (UFFDIO_MOVE, MADV_DONTNEED) must go that way: a registration
 * would go on naming the page that was there first.
 *
 * Called through rpc/fabric_verbs.h only; one thread.
 *
 * Invariants
 *   1. A bounce buffer's blocks belong to one operation from verbs_map to verbs_unmap, and
 * verbs_unmap comes after the operation's completion, or after its queue pair was destroyed.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"
#include "rpc/fabric_verbs.h"

static int set_nonblocking(int fd)
{
	const int flags = fcntl(fd, F_GETFL);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

/* The bounce buffer and its registration. */
static int device_open_bounce(struct verbs_device *d)
{
	d->bounce = mem_map(VERBS_BOUNCE_BYTES);
	if (!d->bounce)
		return -ENOMEM;
	d->bounce_mr = ibv_reg_mr(d->pd, d->bounce, VERBS_BOUNCE_BYTES, IBV_ACCESS_LOCAL_WRITE);
	if (d->bounce_mr)
		return 0;
	const int r = errno ? -errno : -ENOMEM;
	verbs_warn_memory("bounce buffers", VERBS_BOUNCE_BYTES, r);
	return r;
}

static int device_open(struct verbs_part *part, struct verbs_device *d, struct ibv_context *context)
{
	struct ibv_device_attr attributes;
	memset(d, 0, sizeof(*d));
	d->context = context;
	int r = ibv_query_device(context, &attributes);
	if (r)
		return -r;
	d->sge_max = (uint32_t)FM_MIN(attributes.max_sge, (int)VERBS_SGE_MAX);
	d->reads_max = (uint32_t)FM_MIN(attributes.max_qp_init_rd_atom, (int)VERBS_READS_IN_FLIGHT);
	/* Beside what is in flight, what broken queue pairs flush before they are destroyed. */
	const int cqes = (int)FM_MIN(2 * part->ops_count + 64, (uint32_t)attributes.max_cqe);
	errno = ENOMEM;
	d->pd = ibv_alloc_pd(context);
	if (d->pd)
		d->channel = ibv_create_comp_channel(context);
	if (d->channel)
		d->cq = ibv_create_cq(context, cqes, NULL, d->channel, 0);
	if (!d->cq)
		return errno ? -errno : -ENOMEM;
	r = set_nonblocking(d->channel->fd);
	return r ? r : device_open_bounce(d);
}

int verbs_device_find(
	struct verbs_part *part, struct ibv_context *context, struct verbs_device **device)
{
	for (uint32_t i = 0; i < part->devices_count; i++)
		if (part->devices[i].context == context) {
			*device = &part->devices[i];
			return 0;
		}
	if (part->devices_count == VERBS_DEVICES_MAX)
		return -ENOSPC;
	struct verbs_device *d = &part->devices[part->devices_count];
	int r = device_open(part, d, context);
	if (r) {
		verbs_device_close(d);
		return r;
	}
	part->devices_count++;
	verbs_device_learn(part, d);
	*device = d;
	return 0;
}

void verbs_device_learn(struct verbs_part *part, struct verbs_device *d)
{
	struct iovec range;
	while (fabric_memory_range(part->queue, d->memory_count, &range)) {
		struct verbs_memory *memory = &d->memory[d->memory_count++];
		memory->range = range;
		memory->mr =
			ibv_reg_mr(d->pd, range.iov_base, range.iov_len, IBV_ACCESS_LOCAL_WRITE);
		if (!memory->mr)
			verbs_warn_memory("transfers without a copy", range.iov_len,
				errno ? -errno : -ENOMEM);
	}
}

/* The ladder of device_open, from wherever it ended. */
void verbs_device_close(struct verbs_device *d)
{
	for (uint32_t i = 0; i < d->memory_count; i++)
		if (d->memory[i].mr)
			FM_ASSERT_EQ(ibv_dereg_mr(d->memory[i].mr), 0);
	if (d->bounce_mr)
		FM_ASSERT_EQ(ibv_dereg_mr(d->bounce_mr), 0);
	mem_unmap(d->bounce, VERBS_BOUNCE_BYTES);
	if (d->cq)
		FM_ASSERT_EQ(ibv_destroy_cq(d->cq), 0);
	if (d->channel)
		FM_ASSERT_EQ(ibv_destroy_comp_channel(d->channel), 0);
	if (d->pd)
		FM_ASSERT_EQ(ibv_dealloc_pd(d->pd), 0);
	memset(d, 0, sizeof(*d));
}

/* ---- bounce buffers ---- */

static bool block_used(const struct verbs_device *d, uint32_t block)
{
	return d->bounce_used[block / 64] >> (block % 64) & 1;
}

/* The first run of so many free blocks, taken. VERBS_NONE: there is none. */
static uint32_t blocks_take(struct verbs_device *d, uint32_t count)
{
	uint32_t run = 0;
	for (uint32_t block = 0; block < VERBS_BOUNCE_BLOCKS; block++) {
		run = block_used(d, block) ? 0 : run + 1;
		if (run < count)
			continue;
		const uint32_t first = block + 1 - count;
		for (uint32_t b = first; b <= block; b++)
			d->bounce_used[b / 64] |= 1ull << (b % 64);
		return first;
	}
	return VERBS_NONE;
}

static void blocks_give(struct verbs_device *d, uint32_t first, uint32_t count)
{
	for (uint32_t b = first; b < first + count; b++) {
		FM_ASSERT(block_used(d, b));
		d->bounce_used[b / 64] &= ~(1ull << (b % 64));
	}
}

/* Between the bounce buffer and the caller's vector. */
static void bounce_copy(uint8_t *bounce, const struct iovec *iov, uint32_t count, bool out)
{
	for (uint32_t i = 0; i < count; i++) {
		if (iov[i].iov_len == 0)
			continue;
		if (out)
			memcpy(bounce, iov[i].iov_base, iov[i].iov_len);
		else
			memcpy(iov[i].iov_base, bounce, iov[i].iov_len);
		bounce += iov[i].iov_len;
	}
}

static int map_bounce(struct verbs_device *d, struct verbs_op *op,
	const struct fabric_transfer *transfer, uint32_t bytes)
{
	const uint32_t count = (bytes + VERBS_BOUNCE_BLOCK - 1) / VERBS_BOUNCE_BLOCK;
	const uint32_t first = blocks_take(d, count);
	if (first == VERBS_NONE)
		return -EAGAIN;
	uint8_t *bounce = d->bounce + (size_t)first * VERBS_BOUNCE_BLOCK;
	op->bounce_first = first;
	op->bounce_count = count;
	if (op->read) {
		memcpy(op->iov, transfer->iov, transfer->iov_count * sizeof(*op->iov));
		op->iov_count = transfer->iov_count;
	} else {
		bounce_copy(bounce, transfer->iov, transfer->iov_count, true);
	}
	op->sge[0] = (struct ibv_sge){(uintptr_t)bounce, bytes, d->bounce_mr->lkey};
	op->wr.num_sge = 1;
	return 0;
}

/* ---- where bytes are ---- */

/* The local key for these bytes; false: the device cannot reach them. */
static bool memory_key(const struct verbs_device *d, const struct iovec *iov, uint32_t *key)
{
	const uintptr_t at = (uintptr_t)iov->iov_base;
	for (uint32_t i = 0; i < d->memory_count; i++) {
		const struct verbs_memory *m = &d->memory[i];
		const uintptr_t base = (uintptr_t)m->range.iov_base;
		if (!m->mr || at < base || at - base > m->range.iov_len ||
			iov->iov_len > m->range.iov_len - (at - base))
			continue;
		*key = m->mr->lkey;
		return true;
	}
	return false;
}

/* All pieces where they are. `keyless`: they are sent inline, the device need not reach them. */
static bool map_direct(const struct verbs_device *d, struct verbs_op *op,
	const struct fabric_transfer *transfer, bool keyless)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < transfer->iov_count; i++) {
		const struct iovec *iov = &transfer->iov[i];
		uint32_t key = 0;
		if (iov->iov_len == 0)
			continue;
		if (count == d->sge_max || (!keyless && !memory_key(d, iov, &key)))
			return false;
		op->sge[count++] =
			(struct ibv_sge){(uintptr_t)iov->iov_base, (uint32_t)iov->iov_len, key};
	}
	op->wr.num_sge = (int)count;
	return true;
}

int verbs_map(struct verbs_link *link, struct verbs_op *op, const struct fabric_transfer *transfer,
	uint32_t bytes)
{
	const bool keyless = !op->read && bytes <= link->inline_max;
	op->wr.sg_list = op->sge;
	op->bounce_count = 0;
	if (!map_direct(link->device, op, transfer, keyless))
		return map_bounce(link->device, op, transfer, bytes);
	if (keyless)
		op->wr.send_flags |= IBV_SEND_INLINE;
	return 0;
}

void verbs_unmap(struct verbs_device *d, struct verbs_op *op, bool good)
{
	if (!op->bounce_count)
		return;
	if (good && op->read)
		bounce_copy(d->bounce + (size_t)op->bounce_first * VERBS_BOUNCE_BLOCK, op->iov,
			op->iov_count, false);
	blocks_give(d, op->bounce_first, op->bounce_count);
	op->bounce_count = 0;
}
