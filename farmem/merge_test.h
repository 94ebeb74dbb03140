/*
 * farmem/merge_test.h: an agent played by the test, which does what the nodes do in a merge: for
 * merge_test.c and merge_storm_test.c, on cluster_test.h's nodes.
 */
#ifndef FM_FARMEM_MERGE_TEST_H
#define FM_FARMEM_MERGE_TEST_H

#include "farmem/merge.h"
/* Last: it has a `core` of its own. */
#include "farmem/cluster_test.h"

#include "ec/ec.h"

#define TRIES 100000u /* rounds that a phase may take: a bound against hanging */

static struct stripe evictor;

static inline void begin_merging(unsigned k, unsigned m, unsigned count)
{
	begin(k, m, count);
	memset(&evictor, 0, sizeof(evictor));
	evictor.core = &core;
}

/* ---- words, as the paths of a span leave them ---- */

static inline struct span_word word_of(unsigned i)
{
	return span_load(core.catalog.words, (struct page_id){items[i].page});
}

static inline struct span_word far_word(enum span_state state, uint32_t flags, unsigned i)
{
	return span_at(span_make(state, flags, 1), items[i].ssid.v, items[i].pos);
}

static inline void set_word(unsigned i, struct span_word w)
{
	atomic_store_explicit(&core.catalog.words[items[i].page], w.v, memory_order_release);
}

/* Stores `count` pages whose words are FAR. */
static inline void store_far(unsigned count, uint64_t seed)
{
	CHECK_EQ(store_well(count, seed), 0);
	for (unsigned i = 0; i < count; i++)
		set_word(i, far_word(SPAN_FAR, 0, i));
}

/* The program gives a page back. */
static inline void forget(unsigned i)
{
	struct span_word w = word_of(i);
	set_word(i, span_make(SPAN_EMPTY, 0, 2));
	record_clear_live(&core, ssid_make(span_ssid(w)), span_pos(w));
}

/* A word that was moved says where its page is now. */
static inline void follow(unsigned i)
{
	struct span_word w = word_of(i);
	items[i].ssid = ssid_make(span_ssid(w));
	items[i].pos = span_pos(w);
}

/* The item at a position of a spanset of a batch. */
static inline unsigned item_of(unsigned count, struct ssid id, unsigned pos)
{
	for (unsigned i = 0; i < count; i++)
		if (items[i].ssid.v == id.v && items[i].pos == pos)
			return i;
	CHECK(false);
	return 0;
}

/* Items live here; the others of the spanset are given back. */
static inline void keep_only(unsigned count, struct ssid id, uint32_t live)
{
	unsigned k = core.catalog.groups[0].k;
	for (unsigned pos = 0; pos < k; pos++)
		if (!(live >> pos & 1))
			forget(item_of(count, id, pos));
}

static inline uint32_t live_of(uint32_t ssid)
{
	return record_hdr_live(record_load(record_at(&core, ssid_make(ssid))));
}

static inline enum record_state state_of(uint32_t ssid)
{
	return record_hdr_state(record_load(record_at(&core, ssid_make(ssid))));
}

static inline uint32_t slots_free(void)
{
	return slot_free_count(&core, group_id_make(0));
}

static inline uint32_t slots_all(void)
{
	return core.catalog.groups[0].slot_count;
}

/* ---- the nodes, as the agent has them touched ---- */

struct hands {
	struct fabric_queue *queue;
	struct fabric_region *regions[EC_N_MAX];
};

static inline void hands_open(struct hands *h)
{
	struct fabric_queue_options options = {.depth = 16};
	const struct catalog_group *g = &core.catalog.groups[0];
	CHECK_EQ(fabric_queue_open(&options, &h->queue), 0);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct catalog_place *c = catalog_cur(&core.catalog.groups[0].columns[pos]);
		CHECK_EQ(fabric_attach(h->queue, core.catalog.nodes[c->node].endpoint,
				 &c->capability, clock_now_ns() + 20 * NS_PER_S, &h->regions[pos]),
			0);
	}
}

static inline void hands_close(struct hands *h)
{
	fabric_queue_close(h->queue);
}

static inline void hands_move(
	struct hands *h, unsigned pos, uint32_t slot, uint8_t *bytes, bool write)
{
	struct iovec iov = {bytes, FM_PAGE_SIZE};
	struct fabric_completion done;
	struct fabric_transfer t = {.offset = (uint64_t)slot * FM_PAGE_SIZE,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + 20 * NS_PER_S};
	CHECK_EQ(write ? fabric_post_write(h->regions[pos], &t)
		       : fabric_post_read(h->regions[pos], &t),
		0);
	CHECK_EQ(fabric_wait(h->queue, &done, 1, t.deadline_ns), 1);
	CHECK_EQ(done.status, 0);
}

/* ---- the played agent ---- */

static inline void want(struct catalog_merge *merge, const uint32_t (*pairs)[2], unsigned count)
{
	CHECK_EQ(atomic_load(&merge->phase), MERGE_FREE);
	merge->group = 0;
	merge->count = count;
	for (unsigned i = 0; i < count; i++) {
		memset(&merge->pairs[i], 0, sizeof(merge->pairs[i]));
		merge->pairs[i].a = pairs[i][0];
		merge->pairs[i].b = pairs[i][1];
	}
	atomic_store(&merge->phase, MERGE_WANTED);
}

/* The evictor's rounds until the entry is in this phase. */
static inline void rounds_until(struct catalog_merge *merge, enum catalog_merge_phase phase)
{
	for (unsigned i = 0; i < TRIES && atomic_load(&merge->phase) != phase; i++) {
		merge_call(&core);
		(void)merge_round(&evictor);
		(void)record_reclaim(&core);
	}
	CHECK_EQ(atomic_load(&merge->phase), phase);
}

/* Claims from two spansets: true when it came to CLAIMED, false: refused. */
static inline bool rounds_claim(struct catalog_merge *merge)
{
	for (unsigned i = 0; i < TRIES && (atomic_load(&merge->phase) == MERGE_WANTED ||
						  atomic_load(&merge->phase) == MERGE_CLAIMING);
		i++) {
		merge_call(&core);
		(void)merge_round(&evictor);
	}
	CHECK(atomic_load(&merge->phase) == MERGE_CLAIMED ||
		atomic_load(&merge->phase) == MERGE_FREE);
	return atomic_load(&merge->phase) == MERGE_CLAIMED;
}

/* What the nodes do in a transaction: the parities of n's data, in the fresh slots. */
static inline void make_parities(struct hands *h, struct catalog_pair *pair)
{
	const struct catalog_group *g = &core.catalog.groups[0];
	struct record n = record_at(&core, ssid_make(pair->n));
	static _Thread_local uint8_t space[EC_N_MAX][FM_PAGE_SIZE];
	const uint8_t *data[EC_K_MAX];
	uint8_t *parity[EC_M_MAX];
	for (unsigned pos = 0; pos < g->k; pos++) {
		hands_move(h, pos, record_slot(n, pos), space[pos], false);
		CHECK_EQ(crc32c(space[pos], FM_PAGE_SIZE), record_crc(n, pos));
		data[pos] = space[pos];
	}
	for (unsigned i = 0; i < g->m; i++)
		parity[i] = space[g->k + i];
	ec_encode(core_code(&core, g->k, g->m), FM_PAGE_SIZE, data, parity);
	for (unsigned i = 0; i < g->m; i++) {
		hands_move(h, g->k + i, pair->fresh[i], parity[i], true);
		pair->crc[i] = crc32c(parity[i], FM_PAGE_SIZE);
	}
	pair->good = 1;
}

static inline void prepare(struct catalog_merge *merge)
{
	struct hands h;
	hands_open(&h);
	CHECK_EQ(atomic_load(&merge->phase), MERGE_CLAIMED);
	atomic_store(&merge->phase, MERGE_PREPARING);
	for (unsigned i = 0; i < merge->count; i++)
		if (merge->pairs[i].n != CATALOG_NO_RECORD)
			make_parities(&h, &merge->pairs[i]);
	hands_close(&h);
}

static inline void commit(struct catalog_merge *merge)
{
	prepare(merge);
	atomic_store(&merge->phase, MERGE_COMMITTED);
}

/* Two spansets of 4+2, a with positions 0 and 1, b with 2 and 3; eight items. */
static inline void two_halves(uint32_t pair[1][2], uint64_t seed)
{
	store_far(8, seed);
	pair[0][0] = items[0].ssid.v;
	pair[0][1] = items[1].ssid.v;
	CHECK_NE(pair[0][0], pair[0][1]);
	keep_only(8, ssid_make(pair[0][0]), 3);
	keep_only(8, ssid_make(pair[0][1]), 12);
}

/* Reads what lives of the batch. Returns how many reads were degraded. */
static inline unsigned read_living(unsigned count)
{
	unsigned begun = 0;
	for (unsigned i = 0; i < count; i++) {
		enum span_state state = span_state(word_of(i));
		if (state == SPAN_EMPTY)
			continue;
		follow(i);
		fetch_begin(i);
		begun++;
	}
	return fetch_all(begun, 0);
}

static inline void forget_living(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (span_state(word_of(i)) != SPAN_EMPTY)
			forget(i);
	(void)record_reclaim(&core);
	CHECK_EQ(slots_free(), slots_all());
	CHECK_EQ(atomic_load(&core.budget.data_bytes), 0);
}

static inline struct catalog_merge *entry(void)
{
	return &core.catalog.merges[3];
}

#endif
