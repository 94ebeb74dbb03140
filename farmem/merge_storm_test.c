/*
 * farmem/merge_storm_test.c: threads that fetch, store, purge and keep duplicates while others make
 * their spansets one; every read is checked, and at the end no slot is missing.
 *
 * `merge_storm_test shm` and `merge_storm_test tcp`; a second word filters.
 */
#define TEST_MAIN_OWN
#include "farmem/merge_test.h"

#include <sched.h>

#define STORM_PROGRAMS 2u
#define STORM_PAGES 256u /* of each */
#define STORM_STEPS 6000u
#define STORM_BATCH 8u

struct storm_program {
	pthread_t thread;
	struct spanset_io *io;
	uint32_t first; /* page */
	uint64_t random;
	uint64_t version[STORM_PAGES];
	uint8_t *bytes; /* STORM_BATCH pages */
	unsigned fetched, stored, purged, cleaned;
};

static _Atomic unsigned storm_running;
static _Atomic bool storm_stop;

static void storm_fill(uint8_t *bytes, uint32_t page, uint64_t version)
{
	uint64_t random = (uint64_t)page << 32 | version;
	for (unsigned i = 0; i < FM_PAGE_SIZE / 8; i++)
		((uint64_t *)(void *)bytes)[i] = test_random(&random);
}

static struct span_word storm_load(const struct storm_program *p, unsigned i)
{
	return span_load(core.catalog.words, (struct page_id){p->first + i});
}

static bool storm_swap(
	const struct storm_program *p, unsigned i, struct span_word from, struct span_word to)
{
	return span_swap(core.catalog.words, (struct page_id){p->first + i}, from, to);
}

static void storm_clear(struct span_word w)
{
	record_clear_live(&core, ssid_make(span_ssid(w)), span_pos(w));
}

/* FAR -> FETCHING -> NEAR, with or without its duplicate. */
static void storm_fetch(struct storm_program *p, unsigned i, struct span_word w)
{
	static _Thread_local uint8_t expected[FM_PAGE_SIZE];
	struct span_word fetching = span_turned(w, SPAN_FETCHING, SPAN_REMOTE);
	if (!storm_swap(p, i, w, fetching))
		return; /* the merge moved it: as a fault would, look again later */
	struct spanset_fetch *f =
		spanset_fetch_begin(p->io, p->first + i, ssid_make(span_ssid(w)), span_pos(w));
	CHECK(f != NULL);
	spanset_fetch_submit(p->io);
	while (spanset_fetch_poll(p->io, clock_now_ns() + NS_PER_S) == NULL)
		;
	CHECK_EQ(f->status, 0);
	storm_fill(expected, p->first + i, p->version[i]);
	CHECK(memcmp(f->bytes, expected, FM_PAGE_SIZE) == 0);
	spanset_fetch_end(p->io, f);
	bool keep = test_random(&p->random) % 3 == 0;
	struct span_word near = keep ? span_turned(fetching, SPAN_NEAR, SPAN_HAS_FAR)
				     : span_at(span_turned(fetching, SPAN_NEAR, 0), 0, 0);
	CHECK(storm_swap(p, i, fetching, near));
	if (!keep)
		storm_clear(fetching);
	p->fetched++;
}

/* NEAR pages become a batch: claimed, stored, published; a few are rescued in between. */
static void storm_store(struct storm_program *p, unsigned from)
{
	struct spanset_item batch[STORM_BATCH];
	struct span_word taken[STORM_BATCH];
	unsigned index[STORM_BATCH], count = 0;
	for (unsigned i = 0; i < STORM_PAGES && count < STORM_BATCH; i++) {
		unsigned at = (from + i) % STORM_PAGES;
		struct span_word w = storm_load(p, at);
		if (span_state(w) != SPAN_NEAR || (span_flags(w) & SPAN_HAS_FAR))
			continue;
		taken[count] = span_make(SPAN_EVICTING, SPAN_SEALED, span_gen(w) + 1);
		CHECK(storm_swap(p, at, w, taken[count]));
		storm_fill(p->bytes + count * FM_PAGE_SIZE, p->first + at, p->version[at]);
		batch[count] = (struct spanset_item){
			.page = p->first + at, .bytes = p->bytes + count * FM_PAGE_SIZE};
		index[count++] = at;
	}
	if (count == 0)
		return;
	int rc = spanset_store(p->io, batch, count);
	for (unsigned i = 0; i < count; i++) {
		bool stays = rc != 0 || test_random(&p->random) % 8 == 0;
		struct span_word near = span_at(span_turned(taken[i], SPAN_NEAR, 0), 0, 0);
		struct span_word far =
			span_at(span_turned(taken[i], SPAN_FAR, 0), batch[i].ssid.v, batch[i].pos);
		CHECK(storm_swap(p, index[i], taken[i], stays ? near : far));
		if (rc == 0 && stays)
			record_clear_live(&core, batch[i].ssid, batch[i].pos);
		p->stored += !stays;
	}
}

/* The program gives a page back, and writes it anew. */
static void storm_purge(struct storm_program *p, unsigned i, struct span_word w)
{
	struct span_word dropping = span_make(SPAN_DROPPING, 0, span_gen(w) + 1);
	if (!storm_swap(p, i, w, dropping))
		return;
	if (span_holds_reference(w))
		storm_clear(w);
	p->version[i]++;
	CHECK(storm_swap(p, i, dropping, span_make(SPAN_NEAR, 0, span_gen(dropping))));
	p->purged++;
}

/* A near duplicate: back to its far copy through a staging slot, or written to and given up. */
static void storm_duplicate(struct storm_program *p, unsigned i, struct span_word w)
{
	struct span_word taken =
		span_at(span_make(SPAN_EVICTING, 0, span_gen(w) + 1), 77, 0); /* a staging slot */
	if (!storm_swap(p, i, w, taken))
		return;
	if (test_random(&p->random) % 2 == 0) {
		sched_yield(); /* the reference lives in the staging slot meanwhile */
		CHECK(storm_swap(p, i, taken,
			span_at(span_turned(taken, SPAN_FAR, 0), span_ssid(w), span_pos(w))));
		p->cleaned++;
		return;
	}
	p->version[i]++;
	CHECK(storm_swap(p, i, taken, span_make(SPAN_NEAR, 0, span_gen(taken))));
	storm_clear(w);
}

static void *storm_program_main(void *argument)
{
	struct storm_program *p = argument;
	for (unsigned step = 0; step < STORM_STEPS; step++) {
		unsigned i = (unsigned)(test_random(&p->random) % STORM_PAGES);
		struct span_word w = storm_load(p, i);
		bool duplicate = span_holds_reference(w) && span_state(w) == SPAN_NEAR;
		if (test_random(&p->random) % 16 == 0)
			storm_purge(p, i, w);
		else if (span_state(w) == SPAN_FAR)
			storm_fetch(p, i, w);
		else if (duplicate)
			storm_duplicate(p, i, w);
		else
			storm_store(p, i);
	}
	storm_running--;
	return NULL;
}

static void *storm_evictor_main(void *argument)
{
	struct stripe *st = argument;
	while (!storm_stop) {
		merge_call(&core);
		if (!merge_round(st))
			sched_yield();
		(void)record_reclaim(&core);
	}
	return NULL;
}

/* Disjoint spansets of the group, found by looking at some at random. */
static unsigned storm_choose(uint32_t (*pairs)[2], unsigned most, uint64_t *random)
{
	uint32_t used = atomic_load(&core.catalog.header->records_used);
	unsigned count = 0;
	for (unsigned i = 0; i < 4000 && count < most && used > 0; i++) {
		uint32_t a = (uint32_t)(test_random(random) % used);
		uint32_t b = (uint32_t)(test_random(random) % used);
		uint32_t live_a = live_of(a), live_b = live_of(b);
		if (state_of(a) != RECORD_STABLE || state_of(b) != RECORD_STABLE || a == b ||
			live_a == 0 || live_b == 0 || (live_a & live_b) != 0)
			continue;
		pairs[count][0] = a;
		pairs[count++][1] = b;
	}
	return count;
}

/* One transaction, as chance has it: committed, in part, or given up. */
static void storm_transact(struct hands *h, uint64_t *random)
{
	static uint32_t pairs[16][2];
	struct catalog_merge *merge = entry();
	unsigned count = storm_choose(pairs, FM_ARRAY_COUNT(pairs), random);
	if (count == 0)
		return;
	want(merge, (const uint32_t(*)[2])pairs, count);
	uint32_t phase;
	while ((phase = atomic_load(&merge->phase)) == MERGE_WANTED || phase == MERGE_CLAIMING)
		sched_yield();
	if (phase == MERGE_CLAIMED) {
		bool abort = test_random(random) % 5 == 0;
		for (unsigned i = 0; i < count; i++)
			if (merge->pairs[i].n != CATALOG_NO_RECORD && test_random(random) % 8 != 0)
				make_parities(h, &merge->pairs[i]);
		atomic_store(&merge->phase, abort ? MERGE_ABORTED : MERGE_COMMITTED);
	}
	while (atomic_load(&merge->phase) != MERGE_FREE)
		sched_yield();
}

static void storm_start(struct storm_program *p, unsigned index)
{
	struct spanset_io_options options = {.name = "storm",
		.spin_ns = 1000,
		.fetch_deadline_ns = 20 * NS_PER_S,
		.store_deadline_ns = 20 * NS_PER_S,
		.stores = true};
	memset(p, 0, sizeof(*p));
	p->first = 1000 + index * STORM_PAGES;
	p->random = 100 + index;
	p->bytes = malloc((size_t)STORM_BATCH * FM_PAGE_SIZE);
	for (unsigned i = 0; i < STORM_PAGES; i++)
		atomic_store(&core.catalog.words[p->first + i], span_make(SPAN_NEAR, 0, 1).v);
	CHECK_EQ(spanset_io_open(&core, &options, &p->io), 0);
	CHECK_EQ(pthread_create(&p->thread, NULL, storm_program_main, p), 0);
}

/* Every page once more, then given back: nothing may be left. */
static void storm_finish(struct storm_program *p)
{
	for (unsigned i = 0; i < STORM_PAGES; i++) {
		struct span_word w = storm_load(p, i);
		if (span_state(w) == SPAN_FAR)
			storm_fetch(p, i, w);
		storm_purge(p, i, storm_load(p, i));
		CHECK_EQ(span_state(storm_load(p, i)), SPAN_NEAR);
	}
	spanset_io_maintain(p->io);
	spanset_io_close(p->io);
	free(p->bytes);
}

/* On a busy machine a node may miss a deadline: the agent's word makes it good again. */
static void nodes_are_well(void)
{
	for (unsigned i = 0; i < nodes_count; i++)
		atomic_store(&core.catalog.nodes[i].state, NODE_UP);
}

TEST(swap_ins_evictions_and_purges_go_on_while_spansets_are_made_one)
{
	static struct storm_program programs[STORM_PROGRAMS];
	static struct stripe evictors[2];
	pthread_t threads[2];
	struct hands h;
	uint64_t random = 5;
	begin_merging(2, 1, 3);
	hands_open(&h);
	storm_running = STORM_PROGRAMS;
	storm_stop = false;
	for (unsigned i = 0; i < 2; i++) {
		evictors[i] = (struct stripe){.core = &core};
		CHECK_EQ(pthread_create(&threads[i], NULL, storm_evictor_main, &evictors[i]), 0);
	}
	for (unsigned i = 0; i < STORM_PROGRAMS; i++)
		storm_start(&programs[i], i);
	while (storm_running > 0) {
		nodes_are_well();
		storm_transact(&h, &random);
	}
	storm_stop = true;
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < STORM_PROGRAMS; i++) {
		struct storm_program *p = &programs[i];
		pthread_join(p->thread, NULL);
		storm_finish(p);
		CHECK_LT(100, p->fetched);
		CHECK_LT(100, p->stored);
		CHECK_LT(10, p->purged);
		CHECK_LT(10, p->cleaned);
	}
	printf("    %llu pairs made one\n", (unsigned long long)STAT(merged_pairs));
	CHECK_LT(10, STAT(merged_pairs));
	(void)record_reclaim(&core);
	CHECK_EQ(slots_free(), slots_all());
	CHECK_EQ(STAT(crc_mismatches), 0);
	hands_close(&h);
	end();
}

int main(int argc, char **argv)
{
	return cluster_main(argc, argv);
}
