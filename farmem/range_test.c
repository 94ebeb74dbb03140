/*
 * farmem/range_test.c: handing out addresses, fresh blocks, registration, purges of both kinds.
 *
 * Cases that need the kernel's userfaultfd are skipped with a reason where there is none.
 */
#include "farmem/core_test.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "farmem/range.h"

#define MIB (1ull << 20)

static struct range range;
static struct core core;
static struct uffd uffd;
static struct stripe stripe;
static struct stripe *stripes[1] = {&stripe};

static void open_range(void)
{
	memset(&range, 0, sizeof(range));
	CHECK_EQ(range_open(&range, RANGE_MIN_BYTES), 0);
}

static uint32_t page_of(const void *address)
{
	return (uint32_t)(((const uint8_t *)address - range.base) / FM_PAGE_SIZE);
}

TEST(addresses_are_aligned_owned_and_never_handed_out_twice)
{
	open_range();
	uint8_t *end = range.base;
	for (unsigned i = 0; i < 200; i++) {
		size_t alignment = 4096ull << i % 10, bytes = 1 + i * 7919;
		uint8_t *at = range_alloc(&range, bytes, alignment);
		CHECK(at != NULL);
		CHECK_EQ((uintptr_t)at % alignment, 0);
		CHECK(at >= end);
		CHECK(range_owns(&range, at) && range_owns(&range, at + bytes - 1));
		end = at + bytes;
	}
	CHECK(!range_owns(&range, range.base - 1));
	CHECK(!range_owns(&range, range.base + range.pages * FM_PAGE_SIZE));
	CHECK(!range_owns(&range, &range));
	CHECK(!range_owns(&range, NULL));
}

TEST(an_exhausted_range_answers_null_and_a_smaller_wish_is_still_met)
{
	open_range();
	CHECK(range_alloc(&range, RANGE_MIN_BYTES - 4096, 4096) != NULL);
	CHECK(range_alloc(&range, 8192, 4096) == NULL);
	CHECK(range_alloc(&range, SIZE_MAX - 4096, 4096) == NULL);
	CHECK(range_alloc(&range, 4096, 4096) != NULL);
	CHECK(range_alloc(&range, 1, 4096) == NULL);
}

static _Atomic uint8_t owners[RANGE_MIN_BYTES / FM_PAGE_SIZE];
static _Atomic unsigned clashes;

static void *taker_main(void *argument)
{
	uint64_t random = (uint64_t)(uintptr_t)argument;
	for (unsigned i = 0; i < 2000; i++) {
		uint32_t pages = 1 + (uint32_t)(test_random(&random) % 8);
		uint8_t *at = range_alloc(&range, pages * FM_PAGE_SIZE, 4096);
		for (uint32_t p = 0; at != NULL && p < pages; p++)
			clashes += atomic_exchange(&owners[page_of(at) + p], 1);
	}
	return NULL;
}

TEST(threads_that_allocate_at_once_share_no_page)
{
	pthread_t threads[4];
	open_range();
	memset(owners, 0, sizeof(owners));
	clashes = 0;
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, taker_main, (void *)(i + 1)), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(clashes, 0);
	CHECK_LT(4 * 2000, atomic_load(&range.used_pages));
}

/* ---- with a userfaultfd ---- */

static void open_all(bool moves)
{
	struct uffd_features features;
	struct catalog_options options = {.range_pages = RANGE_MIN_BYTES / FM_PAGE_SIZE,
		.records_max = 64,
		.code_k = 4,
		.code_m = 2,
		.region_bytes = MIB,
		.command = "test"};
	int rc = uffd_probe(&features);
	if (rc != 0)
		TEST_SKIP("no userfaultfd here");
	if (moves && !features.move)
		TEST_SKIP("this kernel has no UFFDIO_MOVE");
	open_range();
	memset(&core, 0, sizeof(core));
	core.config.local.bytes = 64 * MIB;
	CHECK_EQ(catalog_create(&core.catalog, &options), 0);
	CHECK_EQ(core_open(&core, 1024), 0);
	memset(&uffd, 0, sizeof(uffd));
	CHECK_EQ(uffd_open(&uffd, range.base, 256, moves), 0);
	memset(&stripe, 0, sizeof(stripe));
	stripe.core = &core;
	stripe.pager = &uffd.pager;
	stripe.stripes = 1;
	stripe.owner = &range;
	CHECK_EQ(stripe_open(&stripe), 0);
}

static void close_all(void)
{
	stripe_close(&stripe);
	close(uffd.fd);
	core_test_close(&core);
}

static enum span_state state_of(uint32_t page)
{
	return span_state(span_load(core.catalog.words, page_id_make(page)));
}

TEST(what_was_handed_out_before_the_start_stays_fresh_and_is_counted)
{
	open_all(true);
	uint8_t *before = range_alloc(&range, 3 * MIB, 4096);
	memset(before, 1, 3 * MIB);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	uint8_t *after = range_alloc(&range, MIB, 4096);
	CHECK_EQ(page_of(after) % RANGE_BLOCK_PAGES, 0);
	CHECK_EQ(range.blocks[0], RANGE_FRESH);
	CHECK_EQ(range.blocks[1], RANGE_FRESH);
	CHECK_EQ(range.blocks[page_of(after) / RANGE_BLOCK_PAGES], RANGE_REGISTERED);
	range_measure_fresh(&range);
	CHECK_LE(3 * MIB / FM_PAGE_SIZE, atomic_load(&core.budget.fresh_pages));
	CHECK_LE(atomic_load(&core.budget.fresh_pages), 4 * MIB / FM_PAGE_SIZE); /* huge pages */
	CHECK_EQ(state_of(page_of(before)), SPAN_EMPTY);
	close_all();
}

TEST(a_fresh_block_becomes_evictable_and_its_present_pages_near)
{
	open_all(true);
	uint8_t *at = range_alloc(&range, 4 * MIB, 4096);
	CHECK_EQ(madvise(at, 4 * MIB, MADV_NOHUGEPAGE), 0);
	for (uint32_t i = 0; i < 1024; i += 2)
		at[(size_t)i * FM_PAGE_SIZE] = (uint8_t)(i + 1);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	range_measure_fresh(&range);
	CHECK_EQ(atomic_load(&core.budget.fresh_pages), 512);
	CHECK(range_prepare_block(&stripe, 0));
	CHECK(range_prepare_block(&stripe, RANGE_BLOCK_PAGES));
	for (uint32_t i = 0; i < 1024; i++)
		CHECK_EQ(state_of(i), i % 2 == 0 ? SPAN_NEAR : SPAN_EMPTY);
	CHECK_EQ(atomic_load(&core.budget.near_pages), 512);
	CHECK_EQ(atomic_load(&core.budget.fresh_pages), 0);
	CHECK_EQ(at[1022ull * FM_PAGE_SIZE], (uint8_t)1023);
	CHECK(range_prepare_block(&stripe, 0)); /* again: nothing counted twice */
	CHECK_EQ(atomic_load(&core.budget.near_pages), 512);
	close_all();
}

static void try_purge(bool registered)
{
	open_all(true);
	uint8_t *at = range_alloc(&range, 4 * MIB, 4096);
	CHECK_EQ(madvise(at, 4 * MIB, MADV_NOHUGEPAGE), 0);
	memset(at, 5, 4 * MIB);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	range_measure_fresh(&range);
	for (uint32_t b = 0; registered && b < 2; b++)
		CHECK(range_prepare_block(&stripe, b * RANGE_BLOCK_PAGES));
	/* from inside page 500 to inside page 520: whole pages 501..519, over a block's border */
	range_purge(&range, stripes, at + 500 * FM_PAGE_SIZE + 1, 20 * FM_PAGE_SIZE);
	for (uint32_t i = 490; i < 530; i++) {
		unsigned char resident = 0;
		CHECK_EQ(mincore(at + (size_t)i * FM_PAGE_SIZE, FM_PAGE_SIZE, &resident), 0);
		CHECK_EQ(resident & 1, i < 501 || i > 519);
		if (registered)
			CHECK_EQ(state_of(i), i < 501 || i > 519 ? SPAN_NEAR : SPAN_EMPTY);
	}
	CHECK_EQ(at[501 * FM_PAGE_SIZE - 1], 5);
	CHECK_EQ(at[520 * FM_PAGE_SIZE], 5);
	if (registered)
		CHECK_EQ(atomic_load(&core.budget.near_pages), 1024 - 19);
	else
		CHECK_EQ(at[510 * FM_PAGE_SIZE], 0);
	close_all();
}

TEST(a_purge_of_fresh_blocks_drops_whole_pages_only)
{
	try_purge(false);
}

TEST(a_purge_of_registered_blocks_drops_whole_pages_only)
{
	try_purge(true);
}

TEST(a_purge_of_less_than_a_page_touches_nothing)
{
	open_all(true);
	uint8_t *at = range_alloc(&range, MIB, 4096);
	memset(at, 5, MIB);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	range_purge(&range, stripes, at + 1, FM_PAGE_SIZE);
	range_purge(&range, stripes, at + 1, 2 * FM_PAGE_SIZE - 2);
	range_purge(&range, stripes, at, 0);
	for (size_t i = 0; i < 4 * FM_PAGE_SIZE; i++)
		CHECK_EQ(at[i], 5);
	close_all();
}

/* ---- whose a page is (range_map.c) ---- */

static uint64_t take(uint64_t pages, uint64_t align, uint8_t byte)
{
	range_map_lock(&range);
	uint64_t page = range_take(&range, pages, align);
	if (page != UINT64_MAX)
		range_own(&range, page, pages, byte);
	range_map_unlock(&range);
	return page;
}

static void give_back(uint64_t page, uint64_t pages)
{
	range_map_lock(&range);
	range_give_back(&range, page, pages);
	range_map_unlock(&range);
}

static const uint8_t used = RANGE_BYTE(RANGE_COMMITTED, PROT_READ | PROT_WRITE);

TEST(addresses_given_back_are_handed_out_again_and_hold_zeros)
{
	open_range();
	range.stripe_list = stripes;
	uint64_t first = take(300, 1, used), second = take(300, 1, used);
	CHECK(first != second);
	uint8_t *memory = range.base + first * FM_PAGE_SIZE;
	memset(memory, 7, 300 * FM_PAGE_SIZE);
	CHECK_EQ(atomic_load(&range.live_pages), 600);
	give_back(first, 300);
	CHECK_EQ(atomic_load(&range.live_pages), 300);
	uint32_t before = atomic_load(&range.used_pages);
	/* Until all of it has gone round. */
	uint64_t again;
	unsigned tries = 0;
	while ((again = take(100, 1, used)) != first && tries < 100)
		tries++;
	CHECK_EQ(again, first);
	CHECK_EQ(atomic_load(&range.used_pages), before);
	CHECK_EQ(mprotect(memory, 100 * FM_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	for (size_t i = 0; i < 100 * FM_PAGE_SIZE; i++)
		CHECK_EQ(memory[i], 0);
}

TEST(large_pieces_lie_on_huge_page_borders_and_pieces_never_overlap)
{
	static uint8_t taken[RANGE_MIN_BYTES / FM_PAGE_SIZE];
	uint64_t held[64] = {0}, pages[64] = {0}, random = 3;
	open_range();
	range.stripe_list = stripes;
	memset(taken, 0, sizeof(taken));
	for (unsigned i = 0; i < 3000; i++) {
		unsigned slot = (unsigned)(test_random(&random) % 64);
		if (pages[slot] != 0) {
			give_back(held[slot], pages[slot]);
			memset(taken + held[slot], 0, pages[slot]);
			pages[slot] = 0;
			continue;
		}
		uint64_t count = 1 + test_random(&random) % 1500;
		uint64_t align = count >= RANGE_BLOCK_PAGES ? RANGE_BLOCK_PAGES : 1;
		held[slot] = take(count, align, used);
		CHECK(held[slot] != UINT64_MAX);
		CHECK_EQ(held[slot] % align, 0);
		for (uint64_t p = held[slot]; p < held[slot] + count; p++) {
			CHECK_EQ(taken[p], 0);
			taken[p] = 1;
		}
		pages[slot] = count;
	}
	/* 64 pieces of at most 6 MiB each: far less than would be used up without giving back. */
	CHECK_LE(atomic_load(&range.used_pages), 64 * 3072);
}

static int refuse(uint8_t *memory, uint64_t bytes, void *argument)
{
	(void)memory, (void)bytes, (void)argument;
	return -EPERM;
}

TEST(what_a_registered_page_held_is_forgotten_before_it_changes_hands)
{
	open_all(true);
	range.stripe_list = stripes;
	uint64_t page = take(1024, RANGE_BLOCK_PAGES, used);
	uint8_t *memory = range.base + page * FM_PAGE_SIZE;
	CHECK_EQ(madvise(memory, 4 * MIB, MADV_NOHUGEPAGE), 0);
	memset(memory, 9, 4 * MIB);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	for (uint32_t b = 0; b < 2; b++)
		CHECK(range_prepare_block(&stripe, (uint32_t)page + b * RANGE_BLOCK_PAGES));
	CHECK_EQ(atomic_load(&core.budget.near_pages), 1024);
	give_back(page + 10, 500);
	CHECK_EQ(state_of((uint32_t)page + 9), SPAN_NEAR);
	CHECK_EQ(state_of((uint32_t)page + 10), SPAN_EMPTY);
	CHECK_EQ(state_of((uint32_t)page + 509), SPAN_EMPTY);
	CHECK_EQ(state_of((uint32_t)page + 510), SPAN_NEAR);
	CHECK_EQ(atomic_load(&core.budget.near_pages), 524);
	CHECK_EQ(memory[510 * FM_PAGE_SIZE], 9);
	/* A change that fails leaves the page its owner. */
	struct range_change change = {refuse, NULL, RANGE_BYTE(RANGE_FOREIGN, 0)};
	range_map_lock(&range);
	int rc = range_change(&range, page + 600, 1, &change);
	range_map_unlock(&range);
	CHECK_EQ(rc, -EPERM);
	CHECK_EQ(range.owners[page + 600], used);
	close_all();
}

TEST(reservations_are_registered_at_the_start_and_blocks_with_other_mappings_never)
{
	open_all(true);
	range.stripe_list = stripes;
	uint64_t reserved = take(1024, RANGE_BLOCK_PAGES, RANGE_BYTE(RANGE_RESERVED, PROT_NONE));
	uint64_t foreign = take(1024, RANGE_BLOCK_PAGES, used);
	uint64_t next = 0, count;
	range_map_lock(&range);
	range_own(&range, foreign + 5, 1, RANGE_BYTE(RANGE_FOREIGN, PROT_READ));
	range_map_unlock(&range);
	CHECK_EQ(range_start(&range, &core, &uffd, 1), 0);
	CHECK(range_registered(&range, reserved));
	CHECK(range_registered(&range, reserved + 1023));
	CHECK(!range_registered(&range, foreign));
	CHECK(!range_prepare_block(&stripe, (uint32_t)reserved)); /* nothing was ever in it */
	CHECK(!range_prepare_block(&stripe, (uint32_t)foreign));
	CHECK(range_prepare_block(&stripe, (uint32_t)foreign + RANGE_BLOCK_PAGES));
	bool met = false;
	while ((count = range_next_registered(&range, &next, range.pages)) != 0) {
		CHECK(foreign + 5 < next || foreign + 5 >= next + count);
		met |= reserved >= next && reserved < next + count;
		next += count;
	}
	CHECK(met);
	close_all();
}

TEST(only_pages_that_cannot_be_written_are_frozen)
{
	open_range();
	uint64_t page = take(10, 1, used);
	CHECK(!range_frozen(&range, (uint32_t)page));
	range_map_lock(&range);
	range_own(&range, page, 1, RANGE_BYTE(RANGE_COMMITTED, PROT_READ));
	range_own(&range, page + 1, 1, RANGE_BYTE(RANGE_COMMITTED, PROT_NONE));
	range_own(&range, page + 2, 1, RANGE_BYTE(RANGE_FOREIGN, PROT_READ));
	range_map_unlock(&range);
	CHECK(range_frozen(&range, (uint32_t)page));
	CHECK(range_frozen(&range, (uint32_t)page + 1));
	CHECK(!range_frozen(&range, (uint32_t)page + 2));
}
