/*
 * rpc/urpc_ring.c: see rpc/urpc_ring.h.
 */
#include "rpc/urpc_ring.h"

#include <errno.h>
#include <string.h>

#include "rpc/urpc_wire.h"

#define RECORD_ALIGN 16u
#define RECORD_FILLER UINT32_MAX

struct ring_record {
	_Atomic uint32_t length; /* of the datagram that follows; RECORD_FILLER: go to the corner */
	uint32_t reserved;
	uint64_t stamp_ns; /* monotonic, when it was written */
};
_Static_assert(sizeof(struct ring_record) == RECORD_ALIGN, "a filler fits wherever a record ends");

static struct ring_record *ring_at(struct urpc_ring *ring, uint64_t position)
{
	return (struct ring_record *)(void *)&ring->bytes[position % URPC_RING_BYTES];
}

static uint64_t ring_to_corner(uint64_t position)
{
	return URPC_RING_BYTES - position % URPC_RING_BYTES;
}

static uint64_t record_bytes(size_t length)
{
	return sizeof(struct ring_record) + FM_ALIGN_UP(length, (size_t)RECORD_ALIGN);
}

int urpc_ring_put(struct urpc_ring *ring, uint64_t *position, const struct iovec *iov,
	size_t iov_count, uint64_t stamp_ns)
{
	/* acquire: the reader is through with what lies before */
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
	uint64_t tail = *position, used = tail - head, filler = 0, needed;
	struct ring_record *record;
	size_t length = 0;
	uint8_t *bytes;

	for (size_t i = 0; i < iov_count; i++)
		length += iov[i].iov_len;
	if (used > URPC_RING_BYTES || length == 0 || length > URPC_DATAGRAM_BYTES_MAX)
		return -EPROTO;
	needed = record_bytes(length);
	if (ring_to_corner(tail) < needed)
		filler = ring_to_corner(tail);
	if (used + filler + needed > URPC_RING_BYTES)
		return -EAGAIN;
	if (filler != 0) {
		atomic_store_explicit(
			&ring_at(ring, tail)->length, RECORD_FILLER, memory_order_relaxed);
		tail += filler;
	}
	record = ring_at(ring, tail);
	atomic_store_explicit(&record->length, (uint32_t)length, memory_order_relaxed);
	record->stamp_ns = stamp_ns;
	bytes = (uint8_t *)(record + 1);
	for (size_t i = 0; i < iov_count; i++) {
		if (iov[i].iov_len != 0)
			memcpy(bytes, iov[i].iov_base, iov[i].iov_len);
		bytes += iov[i].iov_len;
	}
	*position = tail + needed;
	/* seq_cst: releases the record, and pairs with urpc_ring_arm */
	atomic_store(&ring->tail, *position);
	return 0;
}

int urpc_ring_get(
	struct urpc_ring *ring, uint64_t *position, void *bytes, size_t size, uint64_t *stamp_ns)
{
	/* acquire: pairs with the store of tail in urpc_ring_put */
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	uint64_t head = *position;
	const struct ring_record *record;
	uint32_t length;

	if (tail == head)
		return 0;
	if (tail - head > URPC_RING_BYTES || tail % RECORD_ALIGN != 0)
		return -EPROTO;
	record = ring_at(ring, head);
	length = atomic_load_explicit(&record->length, memory_order_relaxed);
	if (length == RECORD_FILLER) {
		head += ring_to_corner(head);
		if (tail - head > URPC_RING_BYTES || tail == head)
			return -EPROTO;
		record = ring_at(ring, head);
		length = atomic_load_explicit(&record->length, memory_order_relaxed);
	}
	if (length == 0 || length > size || record_bytes(length) > tail - head ||
		record_bytes(length) > ring_to_corner(head))
		return -EPROTO;
	*stamp_ns = record->stamp_ns;
	memcpy(bytes, record + 1, length);
	*position = head + record_bytes(length);
	/* release: we are through with the record */
	atomic_store_explicit(&ring->head, *position, memory_order_release);
	return (int)length;
}
