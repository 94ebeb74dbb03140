/* base/fault_point_test.c */
#include "base/fault_point.h"

#include <errno.h>

#include "base/test.h"

static bool pass_alpha(void)
{
	return FAULT_POINT("test.alpha");
}

static bool pass_alpha_elsewhere(void)
{
	return FAULT_POINT("test.alpha");
}

static bool pass_beta(void)
{
	return FAULT_POINT("test.beta");
}

TEST(a_point_that_is_not_armed_never_fires)
{
	fault_disarm_all();
	for (unsigned i = 0; i < 1000; i++)
		CHECK(!pass_alpha());
	CHECK_EQ(fault_fired_count(), 0);
	CHECK_EQ(fault_points_on, 0);
}

TEST(a_transient_fault_fires_once_at_the_nth_passage)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("test.alpha", 3, false), 0);
	CHECK(!pass_alpha());
	CHECK(!pass_alpha());
	CHECK(!pass_beta());
	CHECK(pass_alpha());
	for (unsigned i = 0; i < 10; i++)
		CHECK(!pass_alpha());
	CHECK_EQ(fault_fired_count(), 1);
}

TEST(a_persistent_fault_fires_at_every_passage_from_the_nth_on)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("test.alpha", 2, true), 0);
	CHECK(!pass_alpha());
	for (unsigned i = 0; i < 10; i++)
		CHECK(pass_alpha());
	fault_disarm_all();
	CHECK(!pass_alpha());
}

TEST(places_of_one_name_count_together)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("test.alpha", 2, false), 0);
	CHECK(!pass_alpha());
	CHECK(pass_alpha_elsewhere());
}

TEST(arming_counts_from_now)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("test.alpha", 1, false), 0);
	CHECK(pass_alpha());
	CHECK_EQ(fault_arm("test.alpha", 2, false), 0);
	CHECK(!pass_alpha());
	CHECK(pass_alpha());
}

TEST(the_list_names_what_was_passed_while_counting)
{
	const char *names[8];
	uint64_t counts[8];

	fault_disarm_all();
	fault_count_all(true);
	CHECK_EQ(fault_list(names, counts, 8), 0);
	pass_alpha();
	pass_alpha_elsewhere();
	pass_beta();
	fault_count_all(false);
	pass_beta();
	CHECK_EQ(fault_list(names, counts, 8), 2);
	CHECK_STR_EQ(names[0], "test.alpha");
	CHECK_EQ(counts[0], 2);
	CHECK_STR_EQ(names[1], "test.beta");
	CHECK_EQ(counts[1], 1);
	CHECK_EQ(fault_list(names, counts, 1), 2);
}

TEST(the_list_of_linked_points_knows_also_those_never_passed)
{
	const char *names[8];

	CHECK_EQ(fault_list_linked(names, 8), 4);
	CHECK_STR_EQ(names[0], "test.alpha"); /* two places, one name */
	CHECK_STR_EQ(names[1], "test.beta");
	CHECK_STR_EQ(names[2], "test.never-passed");
	CHECK_STR_EQ(names[3], "test.no-room-for-this");
	CHECK_EQ(fault_list_linked(names, 1), 4);
	if (fault_points_on == UINT32_MAX)
		CHECK(FAULT_POINT("test.never-passed"));
}

TEST(text_arms_several_points_some_of_them_persistent)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm_from_text("test.alpha=1,test.beta=2+"), 0);
	CHECK(pass_alpha());
	CHECK(!pass_alpha());
	CHECK(!pass_beta());
	CHECK(pass_beta());
	CHECK(pass_beta());
	CHECK_EQ(fault_arm_from_text(""), 0);
}

TEST(bad_text_arms_nothing)
{
	const char *const bad[] = {"test.alpha", "test.alpha=", "test.alpha=0", "test.alpha=x",
		"=1", "test.alpha=1++", "test.alpha=-1", "test.alpha=1,test.beta", ",",
		"test.alpha=99999999999999999999", "test.alpha=1,,test.beta=1"};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		fault_disarm_all();
		CHECK_EQ(fault_arm_from_text(bad[i]), -EINVAL);
		CHECK_EQ(fault_points_on, 0);
		CHECK(!pass_alpha());
	}
}

/* Last: it fills the table for good. */
TEST(a_full_table_refuses_new_names_and_keeps_the_old)
{
	char name[32];
	int result = 0;

	fault_disarm_all();
	for (unsigned i = 0; i <= FAULT_POINTS_MAX && result == 0; i++) {
		snprintf(name, sizeof(name), "test.filler.%u", i);
		result = fault_arm(name, 1, false);
	}
	CHECK_EQ(result, -ENOENT);
	CHECK(!FAULT_POINT("test.no-room-for-this"));
	CHECK(!FAULT_POINT("test.no-room-for-this"));
	CHECK_EQ(fault_arm("test.alpha", 1, false), 0);
	CHECK(pass_alpha());
	fault_disarm_all();
}
