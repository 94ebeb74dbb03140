/*
 * farmem/clean_test.c: content hashes: lossy, never wrong, against a twin that forgets nothing.
 */
#include "farmem/core_test.h"

#include <pthread.h>

static struct clean_hash hash_of(uint64_t v)
{
	uint8_t page[FM_PAGE_SIZE];
	memset(page, 0, sizeof(page));
	memcpy(page + 100, &v, sizeof(v));
	return clean_hash_page(page);
}

TEST(one_changed_bit_anywhere_changes_the_hash)
{
	static uint8_t page[FM_PAGE_SIZE];
	struct clean_hash plain = clean_hash_page(page);
	for (unsigned bit = 0; bit < 8 * FM_PAGE_SIZE; bit += 7) {
		page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		struct clean_hash h = clean_hash_page(page);
		CHECK(h.v[0] != plain.v[0] && h.v[1] != plain.v[1]);
		page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

TEST(a_page_never_remembered_is_not_clean)
{
	struct clean_table t;
	CHECK_EQ(clean_open(&t, 100), 0);
	struct clean_hash zero = {{0, 0}};
	for (uint32_t page = 0; page < 1000; page++) {
		CHECK(!clean_matches(&t, page_id_make(page), hash_of(page)));
		CHECK(!clean_matches(&t, page_id_make(page), zero));
	}
	clean_close(&t);
}

TEST(the_last_hash_remembered_counts_and_an_older_one_never)
{
	struct clean_table t;
	uint64_t random = 5;
	static uint64_t last[4096];
	CHECK_EQ(clean_open(&t, 64), 0); /* far too small: pages push each other out */
	memset(last, 0, sizeof(last));
	unsigned kept = 0;
	for (unsigned step = 1; step < 100000; step++) {
		uint32_t page = (uint32_t)(test_random(&random) % FM_ARRAY_COUNT(last));
		struct page_id id = page_id_make(page);
		if (test_random(&random) % 2) {
			last[page] = step;
			clean_remember(&t, id, hash_of(step));
			CHECK(clean_matches(&t, id, hash_of(step)));
			continue;
		}
		uint64_t older = test_random(&random) % step;
		if (older != last[page])
			CHECK(!clean_matches(&t, id, hash_of(older)));
		kept += clean_matches(&t, id, hash_of(last[page]));
	}
	CHECK_LT(1000, kept);
	clean_close(&t);
}

TEST(a_table_made_for_so_many_pages_keeps_most_of_them)
{
	struct clean_table t;
	unsigned kept = 0;
	CHECK_EQ(clean_open(&t, 4096), 0);
	for (uint32_t page = 0; page < 4096; page++)
		clean_remember(&t, page_id_make(page * 3), hash_of(page));
	for (uint32_t page = 0; page < 4096; page++)
		kept += clean_matches(&t, page_id_make(page * 3), hash_of(page));
	printf("    %u of 4096 kept\n", kept);
	CHECK_LT(4096 * 85 / 100, kept);
	clean_close(&t);
}

/* Threads own pages of their own and fight for places: nobody ever finds a hash that is not his
 * last. */
static struct clean_table shared;
static _Atomic uint64_t wrong;

static void *fighter_main(void *argument)
{
	uint32_t self = *(uint32_t *)argument;
	uint64_t random = self + 77, last[64] = {0};
	for (unsigned step = 1; step < 40000; step++) {
		uint32_t at = (uint32_t)(test_random(&random) % 64);
		struct page_id id = page_id_make(at * 4 + self);
		uint64_t value = (uint64_t)step << 8 | self;
		if (step % 2) {
			clean_remember(&shared, id, hash_of(value));
			last[at] = value;
		} else if (last[at] != 0) {
			uint64_t older = last[at] - (1u << 8);
			wrong += clean_matches(&shared, id, hash_of(older));
			wrong += clean_matches(&shared, id, hash_of(last[at] ^ 1));
		}
	}
	return NULL;
}

TEST(threads_that_push_each_other_out_never_find_a_wrong_hash)
{
	uint32_t numbers[4] = {0, 1, 2, 3};
	pthread_t threads[4];
	CHECK_EQ(clean_open(&shared, 1), 0);
	shared.mask = 15; /* few places, many fights */
	wrong = 0;
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, fighter_main, &numbers[i]), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(wrong, 0);
	clean_close(&shared);
}
