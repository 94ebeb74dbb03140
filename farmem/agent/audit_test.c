/*
 * farmem/agent/audit_test.c: made-up catalogs with one thing wrong each, and with nothing wrong.
 * They are made with the runtime's own record.c and slot.c.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>

#include "farmem/agent/audit.h"
#include "farmem/core_test.h"

#define RECORDS 4096u
#define SLOTS 1024u

static struct core core;
static struct audit audit;

static void world_open(unsigned k, unsigned m)
{
	core_test_open(&core, &(struct core_test_options){.k = k,
				      .m = m,
				      .records_max = RECORDS,
				      .region_bytes = SLOTS * FM_PAGE_SIZE});
	core_test_group(&core, 0, k, m, SLOTS);
	core_test_group(&core, 1, k, m, SLOTS);
	CHECK_EQ(audit_open(&audit, &core.catalog), 0);
}

static void world_close(void)
{
	audit_close(&audit);
	core_test_close(&core);
}

static void word_set(
	uint32_t page, enum span_state state, uint32_t flags, struct ssid id, uint32_t pos)
{
	atomic_store(&core.catalog.words[page], span_at(span_make(state, flags, 1), id.v, pos).v);
}

/* A spanset of pages page.. page+k-1, all FAR. */
static struct ssid spanset_make(uint32_t group, uint32_t page)
{
	const struct catalog_group *g = &core.catalog.groups[group];
	uint32_t slots[EC_N_MAX];
	struct ssid id = record_alloc(&core);
	CHECK_EQ(slot_take(&core, group_id_make(group), 1, slots), 0);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		record_set_slot(record_at(&core, id), pos, slots[pos]);
	for (unsigned pos = 0; pos < g->k; pos++)
		record_set_owner(record_at(&core, id), pos, page + pos);
	record_publish(&core, id, group, (1u << g->k) - 1);
	for (unsigned pos = 0; pos < g->k; pos++)
		word_set(page + pos, SPAN_FAR, 0, id, pos);
	return id;
}

static uint64_t look(void)
{
	uint64_t sum = 0;
	char text[200];
	CHECK_EQ(audit_look(&audit), 0);
	for (unsigned i = 0; i < AUDIT_KINDS; i++)
		sum += audit.counts[i];
	for (unsigned i = 0; i < audit.findings_count; i++)
		CHECK(audit_describe(&audit.findings[i], text, sizeof(text))[0] != '\0');
	return sum;
}

/* The one finding there is. */
static const struct audit_finding *only(enum audit_kind kind)
{
	CHECK_EQ(look(), audit.counts[kind]);
	CHECK_EQ(audit.findings_count, 1);
	CHECK_EQ(audit.findings[0].kind, kind);
	return &audit.findings[0];
}

TEST(a_consistent_catalog_has_no_finding_and_every_slot_in_its_place)
{
	world_open(4, 2);
	struct ssid first = spanset_make(0, 0);
	struct ssid second = spanset_make(1, 100);
	struct ssid third = spanset_make(0, 200);
	word_set(0, SPAN_NEAR, SPAN_HAS_FAR, first, 0); /* retained */
	word_set(1, SPAN_EMPTY, 0, first, 0);           /* purged */
	record_clear_live(&core, first, 1);
	word_set(2, SPAN_FETCHING, 0, first, 2);        /* comes in */
	word_set(3, SPAN_EVICTING, 0, ssid_make(7), 0); /* out again, its duplicate staged */
	word_set(101, SPAN_NEAR, SPAN_HOT, second, 0);  /* changed since */
	record_clear_live(&core, second, 1);
	for (uint32_t pos = 0; pos < 4; pos++) {
		record_clear_live(&core, third, pos);
		word_set(200 + pos, SPAN_LOST, 0, ssid_make(0), 0);
	}
	CHECK_EQ(record_reclaim(&core), 1); /* no reader: all the way to FREE */
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.space.far, 4);
	CHECK_EQ(audit.space.retained, 1);
	CHECK_EQ(audit.space.staged, 1);
	CHECK_EQ(audit.space.dead, 2);
	CHECK_EQ(audit.space.parity, 4);
	CHECK_EQ(audit.space.used, 12);
	CHECK_EQ(audit.space.capacity, 12 * SLOTS);
	CHECK_EQ(audit.words[SPAN_FAR], 3);
	CHECK_EQ(audit.words[SPAN_LOST], 4);
	CHECK_EQ(audit.words[SPAN_EMPTY], CORE_TEST_PAGES - 11);
	CHECK_EQ(audit.records[RECORD_STABLE], 2);
	CHECK_EQ(audit.records[RECORD_FREE], 1);
	CHECK_EQ(audit.groups_moving, 0);
	world_close();
}

TEST(a_leaked_slot_is_found_and_a_doubtful_one_is_none)
{
	uint32_t slots[EC_N_MAX];
	world_open(4, 2);
	spanset_make(0, 0);
	CHECK_EQ(slot_take(&core, group_id_make(1), 1, slots), 0);
	for (unsigned pos = 0; pos < 6; pos++)
		if (pos != 3)
			slot_give(&core, group_id_make(1), pos, slots[pos]);
	const struct audit_finding *f = only(AUDIT_SLOT_LEAKED);
	CHECK_EQ(f->group, 1);
	CHECK_EQ(f->pos, 3);
	CHECK_EQ(f->count, 1);
	slot_quarantine(&core, group_id_make(1), 3, slots[3]);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.space.quarantined, 1);
	/* One in doubt does not excuse another that is lost. */
	CHECK_EQ(slot_take(&core, group_id_make(0), 1, slots), 0);
	for (unsigned pos = 1; pos < 6; pos++)
		slot_give(&core, group_id_make(0), pos, slots[pos]);
	f = only(AUDIT_SLOT_LEAKED);
	CHECK_EQ(f->group, AUDIT_NONE);
	CHECK_EQ(f->count, 1);
	world_close();
}

TEST(a_slot_in_two_spansets_is_found_with_both)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0), b = spanset_make(0, 4);
	record_set_slot(record_at(&core, b), 5, record_slot(record_at(&core, a), 5));
	CHECK_EQ(look(), 1);
	const struct audit_finding *f = &audit.findings[0];
	CHECK_EQ(f->kind, AUDIT_SLOT_TWICE);
	CHECK_EQ(f->pos, 5);
	CHECK_EQ(f->ssid, b.v);
	CHECK_EQ(f->other, a.v);
	world_close();
}

TEST(a_slot_of_a_spanset_that_counts_as_free_is_found)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	slot_give(&core, group_id_make(0), 2, record_slot(record_at(&core, a), 2));
	const struct audit_finding *f = only(AUDIT_SLOT_UNCOUNTED);
	CHECK_EQ(f->group, 0);
	CHECK_EQ(f->pos, 2);
	world_close();
}

TEST(a_word_that_names_a_dead_position_is_found)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	record_clear_live(&core, a, 2);
	const struct audit_finding *f = only(AUDIT_WORD_DANGLES);
	CHECK_EQ(f->page, 2);
	CHECK_EQ(f->ssid, a.v);
	CHECK_EQ(f->pos, 2);
	world_close();
}

TEST(words_that_name_nothing_at_all_are_found)
{
	world_open(4, 2);
	spanset_make(0, 0);
	word_set(50, SPAN_FAR, 0, ssid_make(RECORDS - 1), 0);    /* never used */
	word_set(51, SPAN_FAR, 0, ssid_make(0xfffffff0u), 0);    /* beyond the table */
	word_set(52, SPAN_NEAR, SPAN_HAS_FAR, ssid_make(0), 30); /* beyond the code */
	CHECK_EQ(look(), 3);
	CHECK_EQ(audit.counts[AUDIT_WORD_DANGLES], 3);
	world_close();
}

TEST(a_word_that_names_another_pages_position_is_found)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	record_set_owner(record_at(&core, a), 1, 77);
	CHECK_EQ(look(), 2);
	CHECK_EQ(audit.counts[AUDIT_WORD_FOREIGN], 1);
	CHECK_EQ(audit.counts[AUDIT_LIVE_LOOSE], 1); /* page 77 does not hold it */
	world_close();
}

TEST(a_live_position_without_a_holder_is_found)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	word_set(1, SPAN_NEAR, 0, a, 1);
	const struct audit_finding *f = only(AUDIT_LIVE_LOOSE);
	CHECK_EQ(f->ssid, a.v);
	CHECK_EQ(f->pos, 1);
	CHECK_EQ(f->page, 1);
	CHECK_EQ(audit_in_hand(&audit), 1);
	world_close();
}

TEST(the_copy_a_repack_is_writing_has_a_holder_while_its_source_is_claimed)
{
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0), b = spanset_make(1, 0);
	for (uint32_t pos = 0; pos < 4; pos++)
		word_set(pos, SPAN_FAR, 0, a, pos);
	CHECK_EQ(look(), 4);
	CHECK_EQ(audit.counts[AUDIT_LIVE_LOOSE], 4);
	CHECK(record_claim(&core, a));
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.space.repacked, 4);
	record_unclaim(&core, a);
	(void)b;
	world_close();
}

TEST(records_that_name_what_does_not_exist_are_found_and_harm_nobody)
{
	uint64_t random = 7;
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	record_set_slot(record_at(&core, a), 0, SLOTS);
	CHECK_EQ(look(), 1 + 6); /* and its slots are in no spanset then */
	CHECK_EQ(audit.counts[AUDIT_RECORD_WRONG], 1);
	for (unsigned round = 0; round < 2000; round++) {
		struct record r = record_at(&core, ssid_make(round % 64));
		for (unsigned i = 0; i < core.catalog.header->record_stride / 8; i++) {
			uint64_t noise = test_random(&random);
			memcpy(r.bytes + 8 * i, &noise, 8);
		}
		atomic_store(&core.catalog.words[round % 512], test_random(&random));
	}
	atomic_store(&core.catalog.header->records_used, UINT32_MAX);
	atomic_store(&core.catalog.header->groups_count, UINT32_MAX);
	for (unsigned i = 0; i < 64; i++) {
		struct catalog_group *g = &core.catalog.groups[2 + i];
		g->k = (uint8_t)test_random(&random);
		g->m = (uint8_t)test_random(&random);
		g->slot_count = (uint32_t)test_random(&random) % 100000;
		atomic_store(&g->state, 1 + i % 4);
	}
	CHECK_LT(0, look());
	world_close();
}

TEST(a_narrower_group_fits_the_records_of_a_wider_code)
{
	world_open(4, 2);
	core_test_group(&core, 2, 3, 1, 64);
	spanset_make(2, 300);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.space.parity, 1);
	CHECK_EQ(audit.groups[2].named[3], 1);
	CHECK_EQ(audit.groups[2].named[4], 0);
	world_close();
}

/* A pair, a and b half dead, as the runtime has it from CLAIMED on. Returns n. */
static struct ssid merge_make(struct catalog_merge *merge, struct ssid a, struct ssid b)
{
	struct ssid n = record_alloc(&core);
	uint32_t slots[EC_N_MAX];
	CHECK_EQ(slot_take(&core, group_id_make(0), 1, slots), 0);
	for (unsigned pos = 0; pos < 4; pos++)
		slot_give(&core, group_id_make(0), pos, slots[pos]);
	merge->group = 0;
	merge->count = 2;
	merge->pairs[0] = (struct catalog_pair){.a = a.v, .b = b.v, .n = n.v, .take = 12};
	merge->pairs[1] = (struct catalog_pair){.n = CATALOG_NO_RECORD};
	for (unsigned pos = 0; pos < 6; pos++) {
		struct record from = record_at(&core, pos == 2 || pos == 3 ? b : a);
		uint32_t fresh = pos >= 4 ? slots[pos] : record_slot(from, pos);
		record_set_slot(record_at(&core, n), pos, fresh);
		if (pos >= 4)
			merge->pairs[0].fresh[pos - 4] = fresh;
		else
			record_set_owner(record_at(&core, n), pos, record_owner(from, pos));
		record_set_crc(record_at(&core, n), pos, record_crc(from, pos));
	}
	CHECK(record_claim(&core, a) && record_claim(&core, b));
	atomic_store(&merge->phase, MERGE_PREPARING);
	return n;
}

static void forget(struct ssid id, uint32_t page, unsigned pos)
{
	word_set(page, SPAN_EMPTY, 0, id, 0);
	record_clear_live(&core, id, pos);
}

TEST(what_a_merge_has_taken_and_shares_is_accounted_for)
{
	world_open(4, 2);
	struct catalog_merge *merge = &core.catalog.merges[3];
	struct ssid a = spanset_make(0, 0), b = spanset_make(0, 4);
	for (unsigned pos = 0; pos < 2; pos++) {
		forget(a, 2 + pos, 2 + pos);
		forget(b, 4 + pos, pos);
	}
	struct ssid n = merge_make(merge, a, b);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.groups_moving, 0);
	merge->pairs[1].n = n.v; /* says that it has two more, which it has not: slot 0 is a's */
	CHECK_LT(0, look());
	merge->pairs[1].n = CATALOG_NO_RECORD;
	/* Published: three records name the same slots. */
	atomic_store(&merge->phase, MERGE_SWITCHING);
	record_publish_claimed(&core, n, 0, 15);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.groups_moving, 1);
	for (unsigned pos = 0; pos < 4; pos++) {
		uint32_t page = pos < 2 ? pos : 4 + pos;
		word_set(page, SPAN_FAR, 0, n, pos);
		record_clear_live(&core, pos < 2 ? a : b, pos);
	}
	CHECK(record_retire_keeping(&core, a, 3));
	CHECK(record_retire_keeping(&core, b, 12));
	record_unclaim(&core, n);
	atomic_store(&merge->phase, MERGE_FREE);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.groups_moving, 0);
	CHECK_EQ(audit.space.limbo, 12);
	(void)record_reclaim(&core);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.space.used, 6);
	/* One that is in use twice is not excused by it. */
	struct ssid other = spanset_make(0, 100);
	record_set_slot(record_at(&core, other), 1, record_slot(record_at(&core, n), 1));
	CHECK_EQ(look(), 1);
	CHECK_EQ(audit.findings[0].kind, AUDIT_SLOT_TWICE);
	world_close();
}

TEST(a_group_being_stored_into_is_not_judged)
{
	struct epoch_thread thread;
	uint32_t slots[EC_N_MAX];
	world_open(4, 2);
	CHECK_EQ(epoch_register(&core, "evictor", &thread), 0);
	CHECK_EQ(slot_take(&core, group_id_make(0), 1, slots), 0);
	atomic_store(&thread.line->storing, 1);
	CHECK_EQ(look(), 0);
	CHECK_EQ(audit.groups_moving, 1);
	CHECK_EQ(audit.space.in_flight, 6);
	atomic_store(&thread.line->storing, 0);
	CHECK_EQ(look(), 6);
	CHECK_EQ(audit.counts[AUDIT_SLOT_LEAKED], 6);
	world_close();
}

TEST(an_open_group_with_a_lost_column_and_a_repair_of_another_are_found)
{
	world_open(4, 2);
	atomic_store(&core.catalog.groups[0].columns[2].lost, 1);
	const struct audit_finding *f = only(AUDIT_GROUP_WRONG);
	CHECK_EQ(f->group, 0);
	atomic_store(&core.catalog.groups[0].state, GROUP_CLOSED);
	CHECK_EQ(look(), 0);
	struct catalog_repair *r = &core.catalog.repairs[5];
	r->group = 0;
	r->position = 2;
	atomic_store(&r->active, 1);
	atomic_store(&core.catalog.groups[0].columns[2].repair, 6);
	CHECK_EQ(look(), 0);
	r->position = 1;
	f = only(AUDIT_GROUP_WRONG);
	CHECK_EQ(f->pos, 2);
	atomic_store(&core.catalog.groups[0].columns[2].repair, UINT32_MAX);
	only(AUDIT_GROUP_WRONG);
	world_close();
}

TEST(what_is_gone_at_the_next_look_was_a_change_under_way)
{
	struct audit_finding earlier[AUDIT_FINDINGS_MAX];
	world_open(4, 2);
	struct ssid a = spanset_make(0, 0);
	word_set(1, SPAN_NEAR, 0, a, 1);
	word_set(2, SPAN_NEAR, 0, a, 2);
	CHECK_EQ(look(), 2);
	memcpy(earlier, audit.findings, sizeof(earlier));
	word_set(1, SPAN_FAR, 0, a, 1);
	word_set(3, SPAN_NEAR, 0, a, 3);
	CHECK_EQ(look(), 2);
	audit_keep(&audit, earlier, 2);
	CHECK_EQ(audit.findings_count, 1);
	CHECK_EQ(audit.findings[0].pos, 2);
	CHECK_EQ(audit.counts[AUDIT_LIVE_LOOSE], 1);
	world_close();
}

TEST(a_look_allocates_nothing_in_the_catalog)
{
	struct stat before, after;
	world_open(4, 2);
	spanset_make(0, CORE_TEST_PAGES - 4);
	CHECK_EQ(fstat(core.catalog.fd, &before), 0);
	CHECK_EQ(look(), 0);
	CHECK_EQ(fstat(core.catalog.fd, &after), 0);
	CHECK_LE(after.st_blocks, before.st_blocks + 8 * 48); /* heads of tables, no more */
	CHECK_EQ(audit.words[SPAN_FAR], 4);
	world_close();
}

/* --- while it runs ---------------------------------------------------------------------------- */

static _Atomic bool churn_stop;
static _Atomic uint64_t churn_rounds;

/* Spansets come and go, pages change hands: as the runtime does it, in the order it does it. */
static void *churn(void *context)
{
	struct epoch_thread *thread = context;
	uint64_t random = 5;
	while (!atomic_load(&churn_stop)) {
		uint32_t group = (uint32_t)(test_random(&random) % 2);
		uint32_t page = (uint32_t)(test_random(&random) % 1000 * 4);
		atomic_store(&thread->line->storing, group + 1);
		struct ssid id = spanset_make(group, page);
		atomic_store(&thread->line->storing, 0);
		for (uint32_t pos = 0; pos < 4; pos++) {
			word_set(page + pos, SPAN_NEAR, SPAN_HAS_FAR, id, pos);
			word_set(page + pos, SPAN_DROPPING, 0, ssid_make(0), 0);
			record_clear_live(&core, id, pos);
			word_set(page + pos, SPAN_EMPTY, 0, ssid_make(0), 0);
		}
		record_reclaim(&core);
		atomic_fetch_add(&churn_rounds, 1);
	}
	return NULL;
}

/* A change that was under way at a look is over at the next one. */
static void churn_wait(void)
{
	uint64_t from = atomic_load(&churn_rounds);
	while (atomic_load(&churn_rounds) < from + 2)
		sched_yield();
}

TEST(nothing_of_what_goes_on_while_we_look_stays_a_finding)
{
	static struct audit_finding earlier[AUDIT_FINDINGS_MAX];
	struct epoch_thread thread;
	pthread_t other;
	world_open(4, 2);
	for (uint32_t i = 0; i < 200; i++)
		spanset_make(0, 8000 + 4 * i);
	CHECK_EQ(epoch_register(&core, "evictor", &thread), 0);
	atomic_store(&churn_stop, false);
	CHECK_EQ(pthread_create(&other, NULL, churn, &thread), 0);
	for (unsigned round = 0; round < 50; round++) {
		unsigned count = AUDIT_FINDINGS_MAX;
		for (unsigned i = 0; i < 8 && count > 0; i++) {
			look();
			if (i > 0)
				audit_keep(&audit, earlier, count);
			count = audit.findings_count;
			memcpy(earlier, audit.findings, sizeof(earlier));
			churn_wait();
		}
		CHECK_EQ(count, 0);
		CHECK_LE(800, audit.words[SPAN_FAR]);
	}
	atomic_store(&churn_stop, true);
	pthread_join(other, NULL);
	CHECK_EQ(look(), 0);
	world_close();
}
