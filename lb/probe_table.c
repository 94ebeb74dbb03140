/*
 * lb/probe_table.c: see probe_table.h.
 */
#include "lb/probe_table.h"

#include <errno.h>
#include <stddef.h>
#include <sys/random.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"

int probe_table_open(struct probe_table *table, uint32_t capacity, uint64_t timeout_ns)
{
	FM_ASSERT(capacity > 0 && (capacity & (capacity - 1)) == 0);
	*table = (struct probe_table){.mask = capacity - 1, .timeout_ns = timeout_ns};
	if (getrandom(&table->random, sizeof(table->random), 0) != (ssize_t)sizeof(table->random))
		return -EIO;
	table->entries = mem_map(capacity * sizeof(*table->entries));
	return table->entries != NULL ? 0 : -ENOMEM;
}

void probe_table_close(struct probe_table *table)
{
	mem_unmap(table->entries, (table->mask + 1) * sizeof(*table->entries));
	table->entries = NULL;
}

/* splitmix64, seeded by the machine: not to be guessed by who does not see the probes. */
static uint64_t table_draw(struct probe_table *table)
{
	uint64_t z = (table->random += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t probe_table_add(struct probe_table *table, uint32_t server, uint64_t tag, uint64_t now_ns)
{
	uint64_t place = table->tail & table->mask;
	struct probe_entry *entry = &table->entries[place];

	if (table->tail - table->head > table->mask)
		return 0;
	table->tail++;
	/* The bit above the place is always set: 0 says "ended". */
	entry->cookie = (table_draw(table) & ~table->mask) | place | (table->mask + 1);
	entry->sent_ns = now_ns;
	entry->server = server;
	entry->tag = tag;
	return entry->cookie;
}

void probe_table_drop(struct probe_table *table, uint64_t cookie)
{
	struct probe_entry *entry = &table->entries[cookie & table->mask];

	FM_ASSERT(entry->cookie == cookie && cookie != 0);
	entry->cookie = 0;
}

bool probe_table_match(
	struct probe_table *table, uint64_t cookie, uint32_t server, struct probe_entry *out)
{
	struct probe_entry *entry = &table->entries[cookie & table->mask];

	if (cookie == 0 || entry->cookie != cookie || entry->server != server)
		return false;
	*out = *entry;
	entry->cookie = 0;
	return true;
}

bool probe_table_find(const struct probe_table *table, uint64_t cookie, struct probe_entry *out)
{
	*out = table->entries[cookie & table->mask];
	return cookie != 0 && out->cookie == cookie;
}

bool probe_table_expire(struct probe_table *table, uint64_t now_ns, struct probe_entry *out)
{
	while (table->head != table->tail) {
		struct probe_entry *oldest = &table->entries[table->head & table->mask];
		bool is_silent = oldest->cookie != 0;

		if (is_silent && now_ns < oldest->sent_ns + table->timeout_ns)
			return false;
		table->head++;
		if (!is_silent)
			continue;
		*out = *oldest;
		oldest->cookie = 0;
		return true;
	}
	return false;
}

uint64_t probe_table_next_ns(const struct probe_table *table)
{
	if (table->head == table->tail)
		return CLOCK_NEVER_NS;
	return table->entries[table->head & table->mask].sent_ns + table->timeout_ns;
}
