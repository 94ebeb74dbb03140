/*
 * rpc/urpc_once.c: see rpc/urpc_once.h.
 *
 * Entries lie in an array; chains of a hash table find them, a list from oldest to newest says whom
 * to evict. An entry that was looked at and has to stay goes to the list's end, so that a few
 * long-lived ones at its front do not hide the others.
 */
#include "rpc/urpc_once.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"

#define BUCKETS_COUNT 16384u
#define CLIENT_WAYS 4u
#define CLIENT_SETS (URPC_ONCE_CLIENTS / CLIENT_WAYS)
/* Ids further apart than this are of two lives of a client (each life starts at a random id). */
#define LIFE_IDS (1ull << 40)

enum { ENTRY_RUNNING = 1, ENTRY_DONE };

struct urpc_once_entry {
	uint64_t who, id;
	uint64_t keep_until_ns;
	uint64_t reply_at; /* in bytes ever written */
	uint32_t reply_bytes;
	int32_t status;
	uint32_t chain; /* next in its bucket; of a free entry, the next free one */
	uint32_t older, newer;
	uint32_t state;
};

struct urpc_once_client {
	uint64_t who, floor; /* ids before it have ended */
	uint64_t heard_ns;
};

int urpc_once_open(struct urpc_once *once)
{
	size_t entries = URPC_ONCE_ENTRIES * sizeof(struct urpc_once_entry);
	size_t clients = URPC_ONCE_CLIENTS * sizeof(struct urpc_once_client);
	size_t buckets = BUCKETS_COUNT * sizeof(uint32_t);
	uint8_t *memory;

	*once = (struct urpc_once){.oldest = URPC_ONCE_NONE, .newest = URPC_ONCE_NONE};
	once->memory_bytes = URPC_ONCE_BYTES + entries + clients + buckets;
	memory = once->memory = mem_map(once->memory_bytes);
	if (memory == NULL)
		return -ENOMEM;
	once->replies = memory;
	once->entries = (struct urpc_once_entry *)(void *)(memory + URPC_ONCE_BYTES);
	once->clients = (struct urpc_once_client *)(void *)(memory + URPC_ONCE_BYTES + entries);
	once->buckets = (uint32_t *)(void *)(memory + URPC_ONCE_BYTES + entries + clients);
	memset(once->buckets, 0xff, buckets);
	for (uint32_t i = 0; i < URPC_ONCE_ENTRIES; i++)
		once->entries[i].chain = i + 1 < URPC_ONCE_ENTRIES ? i + 1 : URPC_ONCE_NONE;
	return 0;
}

void urpc_once_close(struct urpc_once *once)
{
	mem_unmap(once->memory, once->memory_bytes);
	once->memory = NULL;
}

/* --- clients --- */

static struct urpc_once_client *once_client(struct urpc_once *once, uint64_t who)
{
	struct urpc_once_client *set = &once->clients[who % CLIENT_SETS * CLIENT_WAYS];

	for (unsigned i = 0; i < CLIENT_WAYS; i++)
		if (set[i].heard_ns != 0 && set[i].who == who)
			return &set[i];
	return NULL;
}

static bool once_is_settled(struct urpc_once *once, uint64_t who, uint64_t id)
{
	const struct urpc_once_client *client = once_client(once, who);

	return client != NULL && id - client->floor > UINT64_MAX - LIFE_IDS;
}

/* What a client says of itself; a floor only rises, except in a new life. */
static void once_hear(struct urpc_once *once, const struct urpc_once_request *request)
{
	struct urpc_once_client *client = once_client(once, request->who);
	uint64_t floor = request->id - request->settled;

	if (client == NULL) {
		struct urpc_once_client *set =
			&once->clients[request->who % CLIENT_SETS * CLIENT_WAYS];

		client = set;
		for (unsigned i = 1; i < CLIENT_WAYS; i++)
			if (set[i].heard_ns < client->heard_ns)
				client = &set[i];
		*client = (struct urpc_once_client){.who = request->who, .floor = floor};
	}
	if (floor - client->floor < LIFE_IDS || client->floor - floor > LIFE_IDS)
		client->floor = floor;
	client->heard_ns = FM_MAX(request->now_ns, 1u);
}

/* --- entries --- */

static uint32_t *once_bucket(struct urpc_once *once, uint64_t who, uint64_t id)
{
	return &once->buckets[(who ^ id * 0x9e3779b97f4a7c15ull) >> 50 & (BUCKETS_COUNT - 1)];
}

static uint32_t once_find(struct urpc_once *once, uint64_t who, uint64_t id)
{
	uint32_t index = *once_bucket(once, who, id);

	while (index != URPC_ONCE_NONE &&
		(once->entries[index].id != id || once->entries[index].who != who))
		index = once->entries[index].chain;
	return index;
}

static void once_unlist(struct urpc_once *once, const struct urpc_once_entry *entry)
{
	if (entry->older != URPC_ONCE_NONE)
		once->entries[entry->older].newer = entry->newer;
	else
		once->oldest = entry->newer;
	if (entry->newer != URPC_ONCE_NONE)
		once->entries[entry->newer].older = entry->older;
	else
		once->newest = entry->older;
}

static void once_list_newest(struct urpc_once *once, uint32_t index)
{
	struct urpc_once_entry *entry = &once->entries[index];

	entry->older = once->newest;
	entry->newer = URPC_ONCE_NONE;
	if (once->newest != URPC_ONCE_NONE)
		once->entries[once->newest].newer = index;
	else
		once->oldest = index;
	once->newest = index;
}

static void once_remove(struct urpc_once *once, uint32_t index)
{
	struct urpc_once_entry *entry = &once->entries[index];
	uint32_t *link = once_bucket(once, entry->who, entry->id);

	while (*link != index) {
		FM_ASSERT_NE(*link, URPC_ONCE_NONE);
		link = &once->entries[*link].chain;
	}
	*link = entry->chain;
	once_unlist(once, entry);
	entry->state = 0;
	entry->chain = once->free;
	once->free = index;
	once->count--;
}

/* Invariant 1. */
static bool once_make_room(struct urpc_once *once, uint64_t now_ns)
{
	for (unsigned look = 0; once->free == URPC_ONCE_NONE && look < URPC_ONCE_LOOK; look++) {
		uint32_t index = once->oldest;
		struct urpc_once_entry *entry = &once->entries[index];

		if (entry->state == ENTRY_DONE &&
			(now_ns > entry->keep_until_ns ||
				once_is_settled(once, entry->who, entry->id))) {
			once_remove(once, index);
		} else {
			once_unlist(once, entry);
			once_list_newest(once, index);
		}
	}
	return once->free != URPC_ONCE_NONE;
}

static bool once_has_reply(const struct urpc_once *once, const struct urpc_once_entry *entry)
{
	return entry->reply_bytes == 0 ||
	       once->replies_written - entry->reply_at <= URPC_ONCE_BYTES;
}

enum urpc_once_verdict urpc_once_begin(
	struct urpc_once *once, const struct urpc_once_request *request, uint32_t *index)
{
	struct urpc_once_entry *entry;
	uint32_t *bucket;

	*index = URPC_ONCE_NONE;
	if (once_is_settled(once, request->who, request->id))
		return URPC_ONCE_SETTLED;
	once_hear(once, request);
	*index = once_find(once, request->who, request->id);
	if (*index != URPC_ONCE_NONE) {
		entry = &once->entries[*index];
		if (entry->state == ENTRY_RUNNING)
			return URPC_ONCE_RUNNING;
		return once_has_reply(once, entry) ? URPC_ONCE_DONE : URPC_ONCE_LOST;
	}
	if (!once_make_room(once, request->now_ns))
		return URPC_ONCE_FULL;
	*index = once->free;
	entry = &once->entries[*index];
	once->free = entry->chain;
	bucket = once_bucket(once, request->who, request->id);
	*entry = (struct urpc_once_entry){.who = request->who,
		.id = request->id,
		.keep_until_ns = request->deadline_ns > CLOCK_NEVER_NS - URPC_ONCE_LINGER_NS
					 ? CLOCK_NEVER_NS
					 : request->deadline_ns + URPC_ONCE_LINGER_NS,
		.chain = *bucket,
		.state = ENTRY_RUNNING};
	*bucket = *index;
	once_list_newest(once, *index);
	once->count++;
	return URPC_ONCE_NEW;
}

void urpc_once_finish(
	struct urpc_once *once, uint32_t index, int status, const void *reply, size_t length)
{
	struct urpc_once_entry *entry = &once->entries[index];
	size_t place = once->replies_written % URPC_ONCE_BYTES;

	FM_ASSERT_EQ(entry->state, ENTRY_RUNNING);
	if (place + length > URPC_ONCE_BYTES) { /* not around the corner */
		once->replies_written += URPC_ONCE_BYTES - place;
		place = 0;
	}
	entry->state = ENTRY_DONE;
	entry->status = status;
	entry->reply_bytes = (uint32_t)length;
	entry->reply_at = once->replies_written;
	if (length != 0)
		memcpy(once->replies + place, reply, length);
	once->replies_written += length;
}

void urpc_once_abandon(struct urpc_once *once, uint32_t index)
{
	FM_ASSERT_EQ(once->entries[index].state, ENTRY_RUNNING);
	once_remove(once, index);
}

size_t urpc_once_reply(const struct urpc_once *once, uint32_t index, int *status, void *reply)
{
	const struct urpc_once_entry *entry = &once->entries[index];

	FM_ASSERT(entry->state == ENTRY_DONE && once_has_reply(once, entry));
	*status = entry->status;
	if (entry->reply_bytes != 0)
		memcpy(reply, once->replies + entry->reply_at % URPC_ONCE_BYTES,
			entry->reply_bytes);
	return entry->reply_bytes;
}
