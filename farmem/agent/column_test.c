/*
 * farmem/agent/column_test.c: replacing a column, the catalog's side: order, scans, restarts, what
 * readers may see meanwhile, and catalogs that lie.
 */
#include <errno.h>
#include <pthread.h>

#include "farmem/agent/column.h"
#include "farmem/core_test.h"

#define SLOTS 512u
#define RECORDS 4096u

static struct core core;

static void begin(void)
{
	core_test_open(&core, &(struct core_test_options){.k = 4,
				      .m = 2,
				      .records_max = RECORDS,
				      .region_bytes = SLOTS * FM_PAGE_SIZE});
	for (unsigned g = 0; g < 3; g++)
		core_test_group(&core, g, 4, 2, SLOTS);
	for (unsigned i = 0; i < 16; i++)
		atomic_store(&core.catalog.nodes[i].state, NODE_UP);
	atomic_store(&core.catalog.header->nodes_count, 16);
}

static void end(void)
{
	core_test_close(&core);
}

static struct catalog_column *column_at(uint32_t group, unsigned position)
{
	return &core.catalog.groups[group].columns[position];
}

/* Every byte says which place it is. */
static struct catalog_place place_make(uint8_t which)
{
	struct catalog_place place;
	memset(&place, which, sizeof place);
	place.node = which % 16;
	return place;
}

static bool place_is(const struct catalog_place *place, uint8_t which)
{
	struct catalog_place wanted = place_make(which);
	return place->node == wanted.node &&
	       memcmp(&place->capability, &wanted.capability, sizeof wanted.capability) == 0;
}

/* A spanset of the group; its slots and CRCs follow from `seed`. */
static struct ssid spanset_make(uint32_t group, uint32_t seed)
{
	struct ssid id = record_alloc(&core);
	CHECK(!ssid_is_none(id));
	struct record r = record_at(&core, id);
	for (unsigned p = 0; p < 6; p++) {
		record_set_slot(r, p, (seed + p) % SLOTS);
		record_set_crc(r, p, seed * 7 + p);
	}
	for (unsigned p = 0; p < 4; p++)
		record_set_owner(r, p, 0);
	record_publish(&core, id, group, 15);
	return id;
}

/* Freed as the runtime does it, without slots (the test's are made up). */
static void spanset_kill(struct ssid id)
{
	for (unsigned p = 0; p < 4; p++)
		record_clear_live(&core, id, p);
}

static struct column_job begin_job(uint32_t group, unsigned position, uint8_t next)
{
	struct column_job job;
	struct catalog_place place = place_make(next);
	column_close_group(&core.catalog, group);
	CHECK_EQ(column_begin(&job, &core.catalog, group, position, REPAIR_DECODE, &place), 0);
	return job;
}

/* Scans to the end, marking everything done. Returns how many there were. */
static unsigned scan(struct column_job *job, bool mark)
{
	static struct column_entry entries[64];
	unsigned total = 0;
	bool at_end = false;
	while (!at_end) {
		unsigned count = column_batch(job, entries, 64, 1000, &at_end);
		for (unsigned i = 0; i < count && mark; i++)
			column_done(job, entries[i].slot[job->position]);
		total += count;
	}
	return total;
}

TEST(a_column_goes_from_its_old_place_to_the_new_one)
{
	begin();
	*catalog_cur(column_at(1, 2)) = place_make(3);
	for (uint32_t i = 0; i < 100; i++)
		(void)spanset_make(1, i);
	for (uint32_t i = 0; i < 50; i++)
		(void)spanset_make(2, i); /* of another group */
	column_lose(&core.catalog, 1, 2);
	CHECK_EQ(atomic_load(&core.catalog.groups[1].state), GROUP_CLOSED);
	struct column_job job = begin_job(1, 2, 5);
	CHECK(place_is(catalog_cur(column_at(1, 2)), 3));
	CHECK(column_source(&core.catalog, 1, 2, 0) == NULL);
	CHECK_EQ(scan(&job, true), 100);
	CHECK(!column_complete(&job)); /* something was undone in this scan */
	CHECK(place_is(column_source(&core.catalog, 1, 2, 2), 5));
	CHECK_EQ(scan(&job, true), 0);
	CHECK(column_complete(&job));
	CHECK_EQ(core.catalog.repairs[job.repair].done_count, 100);
	uint32_t repair = job.repair;
	struct catalog_place old;
	column_commit(&job, &old);
	CHECK(place_is(&old, 3));
	CHECK(place_is(catalog_cur(column_at(1, 2)), 5));
	CHECK_EQ(atomic_load(&column_at(1, 2)->lost), 0);
	CHECK_EQ(atomic_load(&column_at(1, 2)->repair), 0);
	CHECK_EQ(atomic_load(&core.catalog.repairs[repair].active), 0);
	column_open_group(&core.catalog, 1);
	CHECK_EQ(atomic_load(&core.catalog.groups[1].state), GROUP_OPEN);
	end();
}

TEST(an_open_group_is_not_touched_and_a_closed_one_opens_only_when_all_is_well)
{
	begin();
	struct catalog_place next = place_make(5);
	struct column_job job;
	CHECK_EQ(column_begin(&job, &core.catalog, 0, 1, REPAIR_COPY, &next), -EPROTO);
	job = begin_job(0, 1, 5);
	CHECK_EQ(column_begin(&job, &core.catalog, 0, 1, REPAIR_COPY, &next), -EBUSY);
	column_open_group(&core.catalog, 0); /* being replaced */
	CHECK_EQ(atomic_load(&core.catalog.groups[0].state), GROUP_CLOSED);
	column_abort(&job, &next);
	CHECK(place_is(&next, 5));
	column_lose(&core.catalog, 0, 3);
	column_open_group(&core.catalog, 0); /* lost */
	CHECK_EQ(atomic_load(&core.catalog.groups[0].state), GROUP_CLOSED);
	atomic_store(&column_at(0, 3)->lost, 0);
	atomic_store(&core.catalog.nodes[0].draining, 1);
	column_open_group(&core.catalog, 0); /* on a node that drains */
	CHECK_EQ(atomic_load(&core.catalog.groups[0].state), GROUP_CLOSED);
	atomic_store(&core.catalog.nodes[0].draining, 0);
	column_open_group(&core.catalog, 0);
	CHECK_EQ(atomic_load(&core.catalog.groups[0].state), GROUP_OPEN);
	end();
}

TEST(nothing_is_rebuilt_while_a_thread_may_still_store_into_the_group)
{
	begin();
	struct column_entry entry;
	bool at_end;
	(void)spanset_make(1, 9);
	atomic_store(&core.catalog.threads[3].storing, 1 + 1);
	struct column_job job = begin_job(1, 0, 5);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(column_batch(&job, &entry, 1, 100, &at_end), 0);
		CHECK(!at_end);
		CHECK(!column_complete(&job));
	}
	CHECK(!column_quiet(&core.catalog, 1));
	CHECK(column_quiet(&core.catalog, 2) == false); /* open: never */
	(void)spanset_make(1, 10);                      /* it did store */
	atomic_store(&core.catalog.threads[3].storing, 2 + 1);
	CHECK_EQ(scan(&job, true), 2);
	CHECK(!column_complete(&job));
	CHECK_EQ(scan(&job, true), 0);
	CHECK(column_complete(&job));
	end();
}

TEST(a_scan_cut_short_is_not_complete)
{
	begin();
	struct column_entry entry;
	bool at_end;
	for (uint32_t i = 0; i < 10; i++)
		(void)spanset_make(2, i);
	struct column_job job = begin_job(1, 0, 5);
	CHECK_EQ(column_batch(&job, &entry, 1, 5, &at_end), 0);
	CHECK(!at_end);
	CHECK(!column_complete(&job));
	CHECK_EQ(scan(&job, true), 0);
	/* New spansets of other groups do not keep it from ending. */
	(void)spanset_make(2, 11);
	CHECK(column_complete(&job));
	end();
}

TEST(spansets_that_nobody_needs_any_more_are_left_out_and_claimed_ones_are_not)
{
	begin();
	struct ssid dead = spanset_make(1, 1), claimed = spanset_make(1, 2);
	(void)spanset_make(1, 3);
	spanset_kill(dead);
	CHECK(record_claim(&core, claimed));
	struct column_job job = begin_job(1, 4, 5);
	CHECK_EQ(scan(&job, true), 2);
	record_unclaim(&core, claimed);
	end();
}

TEST(a_successor_goes_on_where_the_predecessor_died)
{
	begin();
	struct column_job job, next_job;
	struct catalog_place old;
	for (uint32_t i = 0; i < 20; i++)
		(void)spanset_make(1, i);
	column_lose(&core.catalog, 1, 0);
	job = begin_job(1, 0, 5);
	column_done(&job, 7);
	for (uint32_t i = 0; i < CATALOG_REPAIRS_MAX; i++)
		if (i != job.repair)
			CHECK_EQ(column_resume(&next_job, &core.catalog, i), -ENOENT);
	CHECK_EQ(column_resume(&next_job, &core.catalog, job.repair), 0);
	CHECK_EQ(atomic_load(&core.catalog.repairs[job.repair].doubt), 1);
	CHECK_EQ(scan(&next_job, true), 19); /* what was done stays done */
	CHECK(!column_complete(&next_job));
	CHECK_EQ(scan(&next_job, true), 0);
	CHECK(column_complete(&next_job));
	struct catalog_place renewed = place_make(9);
	column_renew(&next_job, &renewed);
	CHECK_EQ(atomic_load(&core.catalog.repairs[job.repair].doubt), 0);
	column_commit(&next_job, &old);
	CHECK(place_is(catalog_cur(column_at(1, 0)), 9));
	end();
}

TEST(a_commit_cut_short_at_any_step_is_ended_by_the_successor_and_never_undone)
{
	for (unsigned steps = 1; steps <= 3; steps++) {
		begin();
		struct column_job job, next_job;
		struct catalog_place old;
		*catalog_cur(column_at(1, 0)) = place_make(3);
		column_lose(&core.catalog, 1, 0);
		job = begin_job(1, 0, 5);
		struct catalog_column *column = column_at(1, 0);
		atomic_store(&column->generation, 1);
		if (steps >= 2)
			atomic_store(&column->lost, 0);
		if (steps >= 3)
			atomic_store(&column->repair, 0);
		int error = column_resume(&next_job, &core.catalog, job.repair);
		CHECK_EQ(error, steps >= 3 ? -EPROTO : -EALREADY);
		if (error == -EALREADY) {
			column_commit(&next_job, &old);
			CHECK(place_is(&old, 3));
		}
		CHECK_EQ(atomic_load(&column->generation), 1);
		CHECK(place_is(catalog_cur(column), 5));
		CHECK_EQ(atomic_load(&column->lost), 0);
		CHECK_EQ(atomic_load(&column->repair), 0);
		CHECK_EQ(atomic_load(&core.catalog.repairs[job.repair].active), 0);
		end();
	}
}

TEST(a_copy_whose_source_dies_goes_on_as_a_decode)
{
	begin();
	struct column_job job;
	struct catalog_place next = place_make(5);
	column_close_group(&core.catalog, 1);
	CHECK_EQ(column_begin(&job, &core.catalog, 1, 2, REPAIR_COPY, &next), 0);
	column_done(&job, 8);
	CHECK(column_source(&core.catalog, 1, 2, 8) == catalog_cur(column_at(1, 2)));
	column_lose(&core.catalog, 1, 2);
	CHECK_EQ(core.catalog.repairs[job.repair].kind, REPAIR_DECODE);
	CHECK(place_is(column_source(&core.catalog, 1, 2, 8), 5));
	CHECK(column_source(&core.catalog, 1, 2, 9) == NULL);
	end();
}

TEST(all_entries_can_be_taken_and_one_more_is_refused)
{
	begin();
	struct catalog_place next = place_make(5);
	struct column_job jobs[CATALOG_REPAIRS_MAX + 1];
	core_test_group(&core, 30, 4, 2, SLOTS);
	for (unsigned i = 0; i <= CATALOG_REPAIRS_MAX; i++) {
		uint32_t group = i / 6;
		core_test_group(&core, group, 4, 2, SLOTS);
		atomic_store(&core.catalog.header->groups_count, 31);
		column_close_group(&core.catalog, group);
		CHECK_EQ(column_begin(&jobs[i], &core.catalog, group, i % 6, REPAIR_COPY, &next),
			i < CATALOG_REPAIRS_MAX ? 0 : -EAGAIN);
	}
	end();
}

TEST(a_group_is_retired_only_when_it_is_empty_quiet_and_given_up)
{
	begin();
	struct catalog_group *g = &core.catalog.groups[2];
	CHECK(!column_retire_group(&core.catalog, 2)); /* open */
	column_evacuate_group(&core.catalog, 2);
	CHECK_EQ(atomic_load(&g->state), GROUP_EVACUATE);
	atomic_store(&g->columns[5].used, 1);
	CHECK(!column_retire_group(&core.catalog, 2));
	atomic_store(&g->columns[5].used, 0);
	atomic_store(&core.catalog.threads[0].storing, 2 + 1);
	CHECK(!column_retire_group(&core.catalog, 2));
	atomic_store(&core.catalog.threads[0].storing, 0);
	CHECK(column_retire_group(&core.catalog, 2));
	CHECK_EQ(atomic_load(&g->state), GROUP_RETIRED);
	column_open_group(&core.catalog, 2);
	column_evacuate_group(&core.catalog, 2);
	column_keep_group(&core.catalog, 2);
	CHECK_EQ(atomic_load(&g->state), GROUP_RETIRED);
	end();
}

TEST(a_spanset_is_to_be_healed_once_however_often_it_is_found)
{
	begin();
	for (uint32_t i = 0; i < CATALOG_HEAL_MAX; i++) {
		CHECK(column_heal(&core.catalog, i));
		CHECK(!column_heal(&core.catalog, i));
	}
	CHECK(!column_heal(&core.catalog, CATALOG_HEAL_MAX)); /* full */
	end();
}

/* ---- catalogs that lie ---- */

TEST(nonsense_in_the_catalog_is_neither_believed_nor_fatal)
{
	begin();
	struct column_job job;
	struct column_entry entry;
	struct catalog_place next = place_make(5);
	uint32_t gen, group;
	struct ssid id = spanset_make(1, 1);
	struct catalog_header *h = core.catalog.header;
	struct catalog_group *g = &core.catalog.groups[1];
	record_set_slot(record_at(&core, id), 3, SLOTS); /* beyond the column */
	CHECK(!column_read_record(&core.catalog, 1, id.v, &entry, &gen));
	record_set_slot(record_at(&core, id), 3, 4);
	CHECK(column_read_record(&core.catalog, 1, id.v, &entry, &gen));
	CHECK(!column_read_record(&core.catalog, 1, RECORDS, &entry, &gen));
	CHECK(!column_read_record(&core.catalog, 1, UINT32_MAX, &entry, &gen));
	atomic_store(&h->records_used, UINT32_MAX);
	CHECK(column_records(&core.catalog) <= RECORDS + 64);
	CHECK(!column_record_group(&core.catalog, RECORDS + 100, &group));
	h->code_k = 200;
	CHECK(!column_read_record(&core.catalog, 1, id.v, &entry, &gen));
	h->code_k = 4;
	g->k = 77;
	CHECK(!column_group_good(&core.catalog, 1));
	CHECK_EQ(column_begin(&job, &core.catalog, 1, 0, REPAIR_COPY, &next), -EPROTO);
	g->k = 4;
	g->slot_count = UINT32_MAX;
	CHECK(!column_group_good(&core.catalog, 1));
	g->slot_count = SLOTS;
	CHECK(!column_group_good(&core.catalog, 3));
	CHECK(!column_group_good(&core.catalog, UINT32_MAX));
	job = begin_job(1, 0, 5);
	core.catalog.repairs[job.repair].group = UINT32_MAX;
	CHECK_EQ(column_resume(&job, &core.catalog, job.repair), -EPROTO);
	atomic_store(&core.catalog.repairs[9].active, 1);
	core.catalog.repairs[9].group = 1;
	core.catalog.repairs[9].position = 6;
	CHECK_EQ(column_resume(&job, &core.catalog, 9), -EPROTO);
	CHECK_EQ(column_resume(&job, &core.catalog, CATALOG_REPAIRS_MAX), -ENOENT);
	atomic_store(&h->records_used, 1);
	end();
}

/* ---- what others see meanwhile ---- */

static _Atomic bool over;
static _Atomic unsigned torn, seen;

/* lane.c's way to a place: copied, believed only if nothing has changed since. */
static bool copy_place(struct catalog_column *column, bool next, struct catalog_place *place)
{
	uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_acquire);
	if (next && repair == 0)
		return false;
	memcpy(place, &column->places[(generation + next) & 1], sizeof *place);
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&column->generation, memory_order_acquire) == generation &&
	       (!next || atomic_load_explicit(&column->repair, memory_order_acquire) == repair);
}

static void *read_places(void *argument)
{
	struct catalog_column *column = argument;
	while (!atomic_load(&over)) {
		struct catalog_place place;
		for (unsigned next = 0; next < 2; next++) {
			if (!copy_place(column, next != 0, &place))
				continue;
			atomic_fetch_add(&seen, 1);
			const uint8_t *bytes = (const uint8_t *)&place.capability;
			if (!place_is(&place, bytes[0]))
				atomic_fetch_add(&torn, 1);
		}
	}
	return NULL;
}

TEST(no_reader_ever_believes_a_place_that_is_being_written)
{
	pthread_t reader;
	begin();
	struct catalog_column *column = column_at(0, 1);
	*catalog_cur(column) = place_make(1);
	column_close_group(&core.catalog, 0);
	atomic_store(&over, false);
	atomic_store(&torn, 0);
	atomic_store(&seen, 0);
	CHECK_EQ(pthread_create(&reader, NULL, read_places, column), 0);
	for (unsigned i = 0; i < 200000 || atomic_load(&seen) < 1000; i++) {
		struct column_job job;
		struct catalog_place other, next = place_make((uint8_t)(i % 250 + 2));
		CHECK_EQ(column_begin(&job, &core.catalog, 0, 1, REPAIR_COPY, &next), 0);
		core.catalog.repairs[job.repair].started_ns = i + 1; /* entries take turns */
		if (i % 3 == 0)
			column_abort(&job, &other);
		else
			column_commit(&job, &other);
	}
	atomic_store(&over, true);
	pthread_join(reader, NULL);
	CHECK_EQ(atomic_load(&torn), 0);
	end();
}

static _Atomic unsigned round_number; /* twice the round; odd: the column is lost and in repair */

/* lane_gone's way: never lost for good where a replacement is, or was just taken into use. */
static void *read_gone(void *argument)
{
	struct catalog_column *column = argument;
	while (!atomic_load(&over)) {
		unsigned before = atomic_load(&round_number);
		uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
		bool lost = atomic_load_explicit(&column->lost, memory_order_acquire) != 0;
		if (before % 2 == 0 || atomic_load(&round_number) != before)
			continue;
		atomic_fetch_add(&seen, 1);
		if (lost && repair == 0)
			atomic_fetch_add(&torn, 1);
	}
	return NULL;
}

TEST(a_column_is_never_taken_for_lost_by_one_who_looks_during_the_commit)
{
	pthread_t reader;
	begin();
	struct catalog_column *column = column_at(0, 1);
	column_close_group(&core.catalog, 0);
	atomic_store(&over, false);
	atomic_store(&torn, 0);
	atomic_store(&seen, 0);
	CHECK_EQ(pthread_create(&reader, NULL, read_gone, column), 0);
	for (unsigned i = 0; i < 200000 || atomic_load(&seen) < 10000; i++) {
		struct column_job job;
		struct catalog_place old, next = place_make(4);
		CHECK_EQ(column_begin(&job, &core.catalog, 0, 1, REPAIR_COPY, &next), 0);
		column_lose(&core.catalog, 0, 1);
		atomic_fetch_add(&round_number, 1);
		column_commit(&job, &old);
		atomic_fetch_add(&round_number, 1);
	}
	atomic_store(&over, true);
	pthread_join(reader, NULL);
	CHECK_EQ(atomic_load(&torn), 0);
	end();
}

static void *read_records(void *argument)
{
	struct column_entry entry;
	uint32_t gen;
	(void)argument;
	while (!atomic_load(&over)) {
		if (!column_read_record(&core.catalog, 1, 0, &entry, &gen))
			continue;
		atomic_fetch_add(&seen, 1);
		uint32_t seed = entry.crc[0] / 7;
		for (unsigned p = 0; p < 6; p++)
			if (entry.slot[p] != (seed + p) % SLOTS || entry.crc[p] != seed * 7 + p)
				atomic_fetch_add(&torn, 1);
	}
	return NULL;
}

TEST(a_record_is_read_as_it_was_at_one_moment_or_not_at_all)
{
	pthread_t reader;
	begin();
	column_close_group(&core.catalog, 1);
	atomic_store(&over, false);
	atomic_store(&torn, 0);
	atomic_store(&seen, 0);
	CHECK_EQ(pthread_create(&reader, NULL, read_records, NULL), 0);
	for (uint32_t i = 0; i < 2000000 || atomic_load(&seen) < 1000; i++) {
		/* One record, again and again; freed the short way, its slots being made up. */
		struct ssid id = spanset_make(1, i % 100000);
		CHECK_EQ(id.v, 0);
		struct record r = record_at(&core, id);
		spanset_kill(id);
		atomic_store(record_hdr(r), (record_load(r) & 0xffff)); /* FREE, same generation */
		core.reclaim.free_ssids[core.reclaim.free_count++] = id.v;
		uint64_t dead;
		while (ring_pop(&core.reclaim.dead, &dead))
			;
	}
	atomic_store(&over, true);
	pthread_join(reader, NULL);
	CHECK_EQ(atomic_load(&torn), 0);
	end();
}
