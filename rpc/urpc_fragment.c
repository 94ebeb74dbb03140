/*
 * rpc/urpc_fragment.c: see rpc/urpc_fragment.h.
 */
#include "rpc/urpc_fragment.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"

enum { GATHER_FREE, GATHER_GATHERING, GATHER_LENT };
#define MEMORY_BYTES ((size_t)URPC_GATHERS_MAX * URPC_MESSAGE_BYTES_MAX)

int urpc_gathers_open(struct urpc_gathers *gathers, _Atomic uint64_t *dropped)
{
	memset(gathers, 0, sizeof(*gathers));
	gathers->dropped = dropped;
	gathers->memory = mem_map(MEMORY_BYTES);
	if (gathers->memory == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < URPC_GATHERS_MAX; i++)
		gathers->entries[i].bytes =
			(uint8_t *)gathers->memory + (size_t)i * URPC_MESSAGE_BYTES_MAX;
	return 0;
}

void urpc_gathers_close(struct urpc_gathers *gathers)
{
	mem_unmap(gathers->memory, MEMORY_BYTES);
	gathers->memory = NULL;
}

static void gathers_drop(struct urpc_gathers *gathers, uint32_t pieces)
{
	/* relaxed: a counter; one writer */
	atomic_store_explicit(gathers->dropped,
		atomic_load_explicit(gathers->dropped, memory_order_relaxed) + pieces,
		memory_order_relaxed);
}

static uint32_t gather_state(const struct urpc_gather *gather)
{
	/* acquire: pairs with urpc_gather_free; nobody reads the buffer any more */
	return atomic_load_explicit(&gather->state, memory_order_acquire);
}

/* Where a new message goes: a free place, else that of who has waited longest. NULL: all lent. */
static struct urpc_gather *gathers_place(struct urpc_gathers *gathers)
{
	struct urpc_gather *oldest = NULL;

	for (unsigned i = 0; i < URPC_GATHERS_MAX; i++) {
		struct urpc_gather *gather = &gathers->entries[i];

		switch (gather_state(gather)) {
		case GATHER_FREE:
			return gather;
		case GATHER_GATHERING:
			if (oldest == NULL || gather->last_ns < oldest->last_ns)
				oldest = gather;
			break;
		}
	}
	if (oldest != NULL)
		gathers_drop(gathers, oldest->have.count);
	return oldest;
}

static struct urpc_gather *gathers_find(
	struct urpc_gathers *gathers, const struct urpc_address *source, uint64_t id)
{
	for (unsigned i = 0; i < URPC_GATHERS_MAX; i++) {
		struct urpc_gather *gather = &gathers->entries[i];

		if (gather_state(gather) == GATHER_GATHERING && gather->id == id &&
			urpc_address_equal(&gather->source, source))
			return gather;
	}
	return NULL;
}

struct urpc_gather *urpc_gathers_add(struct urpc_gathers *gathers,
	const struct urpc_address *source, const struct urpc_parsed *parsed, uint64_t now_ns)
{
	struct urpc_gather *gather = gathers_find(gathers, source, parsed->head.id);

	if (gather == NULL) {
		gather = gathers_place(gathers);
		if (gather == NULL) {
			gathers_drop(gathers, 1);
			return NULL;
		}
		gather->id = parsed->head.id;
		gather->source = *source;
		gather->total_bytes = parsed->head.total_bytes;
		gather->unit = parsed->head.unit;
		gather->have = (struct urpc_bitmap){0};
		gather->first_ns = now_ns;
		atomic_store_explicit(&gather->state, GATHER_GATHERING, memory_order_relaxed);
	}
	if (gather->total_bytes != parsed->head.total_bytes || gather->unit != parsed->head.unit ||
		!urpc_bitmap_add(&gather->have, parsed->head.piece)) {
		gathers_drop(gathers, 1);
		return NULL;
	}
	gather->last_ns = now_ns;
	memcpy(gather->bytes + parsed->offset, parsed->payload, parsed->payload_bytes);
	if (gather->have.count < parsed->pieces)
		return NULL;
	atomic_store_explicit(&gather->state, GATHER_LENT, memory_order_relaxed);
	return gather;
}

void urpc_gather_free(struct urpc_gather *gather)
{
	if (gather != NULL)
		atomic_store_explicit(&gather->state, GATHER_FREE, memory_order_release);
}
