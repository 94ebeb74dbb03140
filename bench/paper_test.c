/* bench/paper_test.c: what the figures of bench/paper rest on: the zipfian choice and the tree. */
#include <math.h>
#include <errno.h>

#include "base/test.h"
#include "bench/paper.h"
#include "bench/paper_tree.h"

#define RANKS 1000
#define DRAWS 200000

/* Each of the first ranks within five standard deviations of its share, for every skew. */
TEST(a_rank_is_drawn_as_often_as_its_exponent_says)
{
	static const double skews[] = {0, 0.6, 0.99, 1, 1.4};

	for (unsigned s = 0; s < FM_ARRAY_COUNT(skews); s++) {
		static uint64_t drawn[RANKS];
		uint64_t random = s + 1;
		struct zipf zipf;
		double total = 0;

		memset(drawn, 0, sizeof(drawn));
		zipf_init(&zipf, RANKS, skews[s]);
		for (unsigned i = 1; i <= RANKS; i++)
			total += pow(i, -skews[s]);
		for (unsigned i = 0; i < DRAWS; i++) {
			uint64_t rank = zipf_draw(&zipf, &random);

			CHECK(rank < RANKS);
			drawn[rank]++;
		}
		for (unsigned i = 0; i < 20; i++) {
			double share = pow(i + 1, -skews[s]) / total, want = share * DRAWS;

			CHECK(fabs((double)drawn[i] - want) < 5 * sqrt(want) + 1);
		}
	}
}

TEST(scattering_hits_every_place_once)
{
	for (uint64_t count = 1; count < 300; count++) {
		bool hit[300] = {false};
		struct scatter scatter;

		scatter_init(&scatter, count, count);
		for (uint64_t rank = 0; rank < count; rank++) {
			uint64_t place = scatter_of(&scatter, rank);

			CHECK(place < count && !hit[place]);
			hit[place] = true;
		}
	}
}

TEST(the_hot_are_not_beside_each_other)
{
	struct scatter scatter;

	scatter_init(&scatter, 1000000, 7);
	for (uint64_t a = 0; a < 100; a++)
		for (uint64_t b = 0; b < a; b++) {
			uint64_t x = scatter_of(&scatter, a), y = scatter_of(&scatter, b);

			CHECK((x > y ? x - y : y - x) > 100);
		}
}

TEST(a_word_of_elsewhere_does_not_fit_the_pattern)
{
	uint64_t words[64];

	pattern_fill(words, 64, 5);
	CHECK_EQ(pattern_wrong(words, 64, 5), 0);
	CHECK_EQ(pattern_wrong(words, 64, 6), 64);
	words[17] ^= 1;
	CHECK_EQ(pattern_wrong(words, 64, 5), 1);
}

TEST(a_tree_finds_what_was_put_in_and_nothing_else)
{
	static uint64_t values[20000];
	struct tree tree = {NULL, 0};

	CHECK(tree_find(&tree, 1) == NULL);
	for (uint64_t i = 0; i < FM_ARRAY_COUNT(values); i++)
		CHECK_EQ(tree_insert(&tree, bench_mix(i) >> 1, &values[i]), 0);
	CHECK_EQ(tree.count, FM_ARRAY_COUNT(values));
	for (uint64_t i = 0; i < FM_ARRAY_COUNT(values); i++) {
		CHECK(tree_find(&tree, bench_mix(i) >> 1) == &values[i]);
		CHECK(tree_find(&tree, bench_mix(i) | 1ull << 63) == NULL);
		CHECK_EQ(tree_insert(&tree, bench_mix(i) >> 1, NULL), -EEXIST);
	}
	CHECK_EQ(tree.count, FM_ARRAY_COUNT(values));
	tree_free(&tree);
	CHECK(tree.root == NULL);
}

TEST(ascending_and_descending_keys_make_a_tree_too)
{
	static uint64_t value;
	struct tree up = {NULL, 0}, down = {NULL, 0};

	for (uint64_t i = 0; i < 5000; i++) {
		CHECK_EQ(tree_insert(&up, i, &value), 0);
		CHECK_EQ(tree_insert(&down, 5000 - i, &value), 0);
	}
	for (uint64_t i = 1; i < 5000; i++)
		CHECK(tree_find(&up, i) == &value && tree_find(&down, i) == &value);
	CHECK(tree_find(&up, 5000) == NULL && tree_find(&down, 0) == NULL);
	tree_free(&up);
	tree_free(&down);
}

TEST(a_list_of_numbers_is_read_or_refused)
{
	double values[PAPER_LIST_MAX];

	CHECK_EQ(paper_list("", values), 0);
	CHECK_EQ(paper_list("1000,2.5", values), 2);
	CHECK(values[0] == 1000 && values[1] == 2.5);
	CHECK_EQ(paper_list("1,x", values), -EINVAL);
	CHECK_EQ(paper_list("-1", values), -EINVAL);
	CHECK_EQ(paper_list("1,,2", values), -EINVAL);
	CHECK_EQ(paper_list("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", values), -EINVAL);
}
