/*
 * farmem/agent/compact_index.c: see compact_index.h.
 *
 * Buckets are in a hash table by (group, live positions), and in a list for each group; the
 * spansets of a bucket are a stack. There are at most 2^k - 2 kinds in a group, 14 at k = 4; of a
 * wide code only the kinds that occur take room, and the first COMPACT_KINDS_MAX are paired.
 *
 * Invariants
 *   1. A spanset is in one bucket at most, and leaves it when it is handed out.
 *   2. The catalog is the program's to write: groups, counts and masks are checked here.
 */
#include "farmem/agent/compact_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "farmem/agent/column.h"
#include "farmem/record.h"

#define NONE UINT32_MAX
#define CANDIDATES_FIRST 1024u
#define TABLE_SIZE (2 * COMPACT_BUCKETS_MAX) /* at most half full: probes are short */

struct candidate {
	uint32_t ssid, next;
};

struct bucket {
	uint32_t group, mask;
	uint32_t head;          /* of its candidates, or NONE */
	uint32_t next_of_group; /* bucket */
};

struct group_note {
	uint32_t buckets; /* the first one, or NONE */
	uint32_t dead;    /* positions */
	bool exhausted;
};

struct compact_index {
	const struct catalog *catalog;
	uint32_t cursor;
	bool ended;
	struct compact_totals totals, counting;
	struct candidate *candidates;
	uint32_t candidates_count, candidates_capacity;
	uint32_t buckets_count;
	struct bucket buckets[COMPACT_BUCKETS_MAX];
	uint32_t table[TABLE_SIZE]; /* index into buckets, or NONE */
	struct group_note *groups;
	uint32_t groups_count, groups_capacity;
};

struct compact_index *compact_index_open(const struct catalog *catalog)
{
	struct compact_index *index = malloc(sizeof *index);
	if (index == NULL)
		return NULL;
	index->catalog = catalog;
	index->candidates = NULL;
	index->groups = NULL;
	index->candidates_capacity = index->groups_capacity = 0;
	index->totals = (struct compact_totals){0};
	compact_index_restart(index);
	return index;
}

void compact_index_close(struct compact_index *index)
{
	if (index == NULL)
		return;
	free(index->candidates);
	free(index->groups);
	free(index);
}

void compact_index_restart(struct compact_index *index)
{
	index->cursor = index->candidates_count = index->buckets_count = index->groups_count = 0;
	index->ended = false;
	index->counting = (struct compact_totals){0};
	memset(index->table, 0xff, sizeof index->table);
}

void compact_index_totals(const struct compact_index *index, struct compact_totals *totals)
{
	*totals = index->totals;
}

/* ---- notes ---- */

/* NULL: no memory, or no such group. Those up to it are there then. */
static struct group_note *group_at(struct compact_index *index, uint32_t group)
{
	if (group >= CATALOG_GROUPS_MAX)
		return NULL;
	if (group >= index->groups_capacity) {
		uint32_t capacity = FM_MAX(64u, 2 * (group + 1));
		struct group_note *more = realloc(index->groups, capacity * sizeof *more);
		if (more == NULL)
			return NULL;
		index->groups = more;
		index->groups_capacity = capacity;
	}
	for (; index->groups_count <= group; index->groups_count++)
		index->groups[index->groups_count] = (struct group_note){.buckets = NONE};
	return &index->groups[group];
}

/* Where the table has the bucket, or would have it. */
static uint32_t *table_at(struct compact_index *index, uint32_t group, uint32_t mask)
{
	uint64_t mixed = ((uint64_t)group << 16 | mask) * 0x9e3779b97f4a7c15ull;
	uint32_t at = (uint32_t)(mixed >> 40) % TABLE_SIZE;
	while (index->table[at] != NONE) { /* half of it is NONE */
		const struct bucket *bucket = &index->buckets[index->table[at]];
		if (bucket->group == group && bucket->mask == mask)
			break;
		at = (at + 1) % TABLE_SIZE;
	}
	return &index->table[at];
}

static struct bucket *bucket_find(struct compact_index *index, uint32_t group, uint32_t mask)
{
	uint32_t bucket = *table_at(index, group, mask);
	return bucket == NONE ? NULL : &index->buckets[bucket];
}

/* NULL: there is no room for another kind. */
static struct bucket *bucket_make(
	struct compact_index *index, struct group_note *note, uint32_t group, uint32_t mask)
{
	uint32_t *at = table_at(index, group, mask);
	if (*at != NONE)
		return &index->buckets[*at];
	if (index->buckets_count == COMPACT_BUCKETS_MAX)
		return NULL;
	*at = index->buckets_count;
	index->buckets[index->buckets_count] = (struct bucket){
		.group = group, .mask = mask, .head = NONE, .next_of_group = note->buckets};
	note->buckets = *at;
	return &index->buckets[index->buckets_count++];
}

static bool candidates_grow(struct compact_index *index)
{
	uint32_t capacity = FM_MAX(CANDIDATES_FIRST, 2 * index->candidates_capacity);
	if (index->candidates_count < index->candidates_capacity)
		return true;
	if (capacity > COMPACT_CANDIDATES_MAX)
		return false;
	struct candidate *more = realloc(index->candidates, capacity * sizeof *more);
	if (more == NULL)
		return false;
	index->candidates = more;
	index->candidates_capacity = capacity;
	return true;
}

static void note_candidate(struct compact_index *index, struct group_note *note, uint32_t group,
	uint32_t mask, uint32_t ssid)
{
	struct bucket *bucket =
		candidates_grow(index) ? bucket_make(index, note, group, mask) : NULL;
	if (bucket == NULL)
		return;
	index->candidates[index->candidates_count] = (struct candidate){ssid, bucket->head};
	bucket->head = index->candidates_count++;
}

/* ---- records ---- */

/* k of the group, or 0: none that is compacted. */
static uint32_t group_k(const struct compact_index *index, uint32_t group)
{
	if (!column_group_good(index->catalog, group))
		return 0;
	const uint8_t k = index->catalog->groups[group].k;
	return FM_MIN(k, EC_K_MAX);
}

/* Live positions of a spanset that may be merged now; 0: none. */
static uint32_t record_mask(const struct compact_index *index, uint32_t ssid, uint32_t group)
{
	uint64_t hdr = record_load(record_in(index->catalog, ssid_make(ssid)));
	uint32_t all = (1u << group_k(index, group)) - 1;
	uint32_t live = record_hdr_live(hdr) & all;
	if (record_hdr_state(hdr) != RECORD_STABLE || record_hdr_group(hdr) != group)
		return 0;
	return live == all ? 0 : live;
}

static void look_at(struct compact_index *index, uint32_t ssid)
{
	uint64_t hdr = record_load(record_in(index->catalog, ssid_make(ssid)));
	const enum record_state state = record_hdr_state(hdr);
	const uint32_t group = record_hdr_group(hdr), k = group_k(index, group);
	if ((state != RECORD_STABLE && state != RECORD_CLAIMED) || k == 0)
		return;
	const uint32_t all = (1u << k) - 1, live = record_hdr_live(hdr) & all;
	const uint32_t live_count = (uint32_t)__builtin_popcount(live);
	index->counting.positions += k;
	index->counting.live += live_count;
	struct group_note *note = live == all ? NULL : group_at(index, group);
	if (note == NULL)
		return;
	note->dead += k - live_count;
	if (state == RECORD_STABLE && live != 0)
		note_candidate(index, note, group, live, ssid);
}

bool compact_index_look(struct compact_index *index, uint32_t look)
{
	const uint32_t end = column_records(index->catalog);
	for (; index->cursor < end && look > 0; index->cursor++, look--)
		look_at(index, index->cursor);
	if (index->cursor >= end && !index->ended) {
		index->ended = true;
		index->totals = index->counting;
	}
	return index->ended;
}

/* ---- pairs ---- */

bool compact_index_group(const struct compact_index *index,
	bool (*may)(void *context, uint32_t group), void *context, uint32_t *group)
{
	uint32_t best = NONE;
	for (uint32_t g = 0; index->ended && g < index->groups_count; g++) {
		const struct group_note *note = &index->groups[g];
		if (note->exhausted || note->buckets == NONE ||
			(best != NONE && note->dead <= index->groups[best].dead) ||
			!may(context, g))
			continue;
		best = g;
	}
	*group = best;
	return best != NONE;
}

/* The next of the bucket that is still what it was noted for, or less. NONE: it is empty. */
static uint32_t bucket_pop(struct compact_index *index, struct bucket *bucket, uint32_t *mask)
{
	while (bucket->head != NONE) {
		const struct candidate candidate = index->candidates[bucket->head];
		bucket->head = candidate.next;
		*mask = record_mask(index, candidate.ssid, bucket->group);
		if (*mask != 0)
			return candidate.ssid;
	}
	return NONE;
}

struct pairing {
	struct compact_index *index;
	uint32_t (*pairs)[2];
	uint32_t count, most;
};

static void pair_buckets(struct pairing *p, struct bucket *one, struct bucket *other)
{
	while (p->count < p->most && one->head != NONE && other->head != NONE) {
		uint32_t mask_a, mask_b;
		uint32_t a = bucket_pop(p->index, one, &mask_a);
		/* Without a partner one is lost for this pass only. */
		uint32_t b = a == NONE ? NONE : bucket_pop(p->index, other, &mask_b);
		if (b == NONE || (mask_a & mask_b) != 0)
			continue;
		bool swap = __builtin_popcount(mask_b) > __builtin_popcount(mask_a);
		p->pairs[p->count][0] = swap ? b : a;
		p->pairs[p->count++][1] = swap ? a : b;
	}
}

static void pair_complements(struct pairing *p, const struct group_note *note, uint32_t all)
{
	for (uint32_t at = note->buckets; at != NONE; at = p->index->buckets[at].next_of_group) {
		struct bucket *one = &p->index->buckets[at];
		uint32_t rest = all & ~one->mask;
		struct bucket *other =
			one->mask < rest ? bucket_find(p->index, one->group, rest) : NULL;
		if (other != NULL)
			pair_buckets(p, one, other);
	}
}

static void pair_disjoint(struct pairing *p, const struct group_note *note, unsigned k)
{
	struct bucket *kinds[COMPACT_KINDS_MAX];
	unsigned count = 0;
	for (uint32_t at = note->buckets; at != NONE && count < COMPACT_KINDS_MAX;
		at = p->index->buckets[at].next_of_group)
		if (p->index->buckets[at].head != NONE)
			kinds[count++] = &p->index->buckets[at];
	for (unsigned together = k - 1; together >= 2; together--)
		for (unsigned i = 0; i < count && p->count < p->most; i++)
			for (unsigned j = i + 1; j < count; j++) {
				uint32_t one = kinds[i]->mask, other = kinds[j]->mask;
				if ((one & other) == 0 &&
					(unsigned)__builtin_popcount(one | other) == together)
					pair_buckets(p, kinds[i], kinds[j]);
			}
}

uint32_t compact_index_take(
	struct compact_index *index, uint32_t group, uint32_t (*pairs)[2], uint32_t most)
{
	struct pairing pairing = {.index = index, .pairs = pairs, .most = most};
	const uint32_t k = group_k(index, group);
	if (group >= index->groups_count || k < 2)
		return 0;
	struct group_note *note = &index->groups[group];
	pair_complements(&pairing, note, (1u << k) - 1);
	pair_disjoint(&pairing, note, k);
	note->exhausted = pairing.count < most;
	note->dead -= FM_MIN(note->dead, pairing.count * k);
	return pairing.count;
}
