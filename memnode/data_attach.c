/*
 * memnode/data_attach.c: the handles of a connection. See memnode/data_connection.h; the
 * connection's mutex is held by the caller throughout.
 *
 * Invariants
 *   1. A handle exists only after its capability was right; it names (lease, epoch), so it ends
 *      with either.
 *   2. Handles hold no references: who touches memory enters the lease for that one system call.
 */
#include <stdlib.h>

#include "memnode/data_connection.h"

#define HANDLES_FIRST 16u

static bool handles_grow(struct data_connection *c)
{
	uint32_t count = c->handles_count ? c->handles_count * 2 : HANDLES_FIRST;
	if (count > DATA_HANDLES_MAX)
		return false;
	struct data_handle *handles = realloc(c->handles, count * sizeof(*handles));
	if (!handles)
		return false;
	for (uint32_t i = c->handles_count; i < count; i++)
		handles[i] = (struct data_handle){0};
	c->handles = handles;
	c->handles_count = count;
	return true;
}

uint16_t data_attach(
	struct data_connection *c, const struct fabric_capability *capability, uint32_t *handle)
{
	struct lease *lease;
	uint32_t i = 0;
	if (lease_get(c->table, capability, &lease)) {
		data_count(&c->counters->refused_count, 1);
		return WIRE_STATUS_ACCESS;
	}
	const uint64_t bytes = lease_bytes(lease);
	lease_touch(lease);
	lease_put(lease);
	if (c->handles_used == c->handles_count) {
		i = c->handles_count;
		if (!handles_grow(c))
			return WIRE_STATUS_NOMEM;
	}
	while (c->handles[i].lease)
		i++;
	c->handles[i] = (struct data_handle){lease, capability->epoch, bytes};
	c->handles_used++;
	atomic_store(&c->attached, true);
	*handle = i;
	return WIRE_STATUS_OK;
}

void data_detach(struct data_connection *c, uint32_t handle)
{
	if (handle >= c->handles_count || !c->handles[handle].lease)
		return;
	c->handles[handle] = (struct data_handle){0};
	c->handles_used--;
}

uint16_t data_check(const struct data_connection *c, const struct wire_header *request,
	struct data_handle *handle)
{
	*handle = (struct data_handle){0};
	if (request->handle >= c->handles_count || !c->handles[request->handle].lease)
		return WIRE_STATUS_ACCESS;
	*handle = c->handles[request->handle];
	if (request->offset > handle->bytes || request->length > handle->bytes - request->offset)
		return WIRE_STATUS_RANGE;
	return lease_valid(handle->lease, handle->epoch) ? WIRE_STATUS_OK : WIRE_STATUS_ACCESS;
}

void data_touch_all(struct data_connection *c)
{
	for (uint32_t i = 0; i < c->handles_count; i++) {
		const struct data_handle *h = &c->handles[i];
		if (!h->lease || !lease_enter(h->lease, h->epoch))
			continue;
		lease_touch(h->lease);
		lease_put(h->lease);
	}
}

void data_detach_all(struct data_connection *c)
{
	free(c->handles);
	c->handles = NULL;
	c->handles_count = 0;
	c->handles_used = 0;
}
