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
