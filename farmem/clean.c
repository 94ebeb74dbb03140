/*
 * farmem/clean.c: content hashes of near pages that have a duplicate on the nodes (DESIGN section
 * 7, Clean spans).
 *
 * Callers: fault.c remembers what it installs, evict.c asks whether the bytes are still those.
 * XXH3, 128 bits. The table is lossy and lock-free: a slot is claimed by CAS of its tag; a page
 * whose hash was pushed out is merely written again. A page's own hash is written and read only by
 * the owner of its word (FETCHING, EVICTING), so a reader needs to fear other pages only: it looks
 * at the tag before and after.
 */
#include <errno.h>

#include "base/mem.h"
#include "farmem/core.h"

#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#include <xxhash.h>
#pragma GCC diagnostic pop

#define CLEAN_WAYS 4u
#define CLEAN_BUSY UINT64_MAX

int clean_open(struct clean_table *table, uint64_t pages)
{
	uint64_t count = 1024;
	while (count < pages + pages / 2)
		count *= 2;
	table->bytes = count * sizeof(struct clean_entry);
	table->entries = mem_map_huge(table->bytes);
	table->mask = count - 1;
	return table->entries ? 0 : -ENOMEM;
}

void clean_close(struct clean_table *table)
{
	mem_unmap(table->entries, table->bytes);
	table->entries = NULL;
}

struct clean_hash clean_hash_page(const void *bytes)
{
	XXH128_hash_t h = XXH3_128bits(bytes, FM_PAGE_SIZE);
	return (struct clean_hash){{h.low64, h.high64}};
}

/* First of the CLEAN_WAYS neighbours a page may sit in. */
static struct clean_entry *clean_set(const struct clean_table *table, struct page_id page)
{
	uint64_t mixed = page.v * 0x9e3779b97f4a7c15ull >> 20;
	return &table->entries[mixed & table->mask & ~(uint64_t)(CLEAN_WAYS - 1)];
}

void clean_remember(struct clean_table *table, struct page_id page, struct clean_hash hash)
{
	struct clean_entry *set = clean_set(table, page);
	uint64_t tag = (uint64_t)page.v + 1;
	struct clean_entry *at = &set[hash.v[0] % CLEAN_WAYS]; /* victim when none is free */
	for (unsigned i = 0; i < CLEAN_WAYS; i++) {
		uint64_t seen = atomic_load_explicit(&set[i].tag, memory_order_relaxed);
		if (seen == tag || seen == 0) {
			at = &set[i];
			if (seen == tag)
				break;
		}
	}
	uint64_t old = atomic_load_explicit(&at->tag, memory_order_relaxed);
	if (old == CLEAN_BUSY || !atomic_compare_exchange_strong_explicit(&at->tag, &old,
					 CLEAN_BUSY, memory_order_acquire, memory_order_relaxed))
		return;
	atomic_store_explicit(&at->hash[0], hash.v[0], memory_order_release);
	atomic_store_explicit(&at->hash[1], hash.v[1], memory_order_release);
	atomic_store_explicit(&at->tag, tag, memory_order_release);
}

bool clean_matches(const struct clean_table *table, struct page_id page, struct clean_hash hash)
{
	struct clean_entry *set = clean_set(table, page);
	uint64_t tag = (uint64_t)page.v + 1;
	for (unsigned i = 0; i < CLEAN_WAYS; i++) {
		if (atomic_load_explicit(&set[i].tag, memory_order_acquire) != tag)
			continue;
		uint64_t h0 = atomic_load_explicit(&set[i].hash[0], memory_order_acquire);
		uint64_t h1 = atomic_load_explicit(&set[i].hash[1], memory_order_acquire);
		if (atomic_load_explicit(&set[i].tag, memory_order_relaxed) == tag &&
			h0 == hash.v[0] && h1 == hash.v[1])
			return true;
	}
	return false;
}
