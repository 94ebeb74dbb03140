/*
 * lb/health_test.c: the arrows of health.h's diagram, one by one.
 */
#include "lb/health.h"

#include "base/clock.h"
#include "base/test.h"

#define SERVERS 8
#define PAUSE_NS 1000u
#define SLOW_NS 10000u

static struct health health;
static struct draw draw;

static void open_health(unsigned servers)
{
	memset(&health, 0, sizeof(health));
	draw.state = 5;
	CHECK_EQ(health_open(&health, servers), 0);
	health.eject_failures = 3;
	health.eject_ns = PAUSE_NS;
	health.slow_start_ns = SLOW_NS;
}

static void fail(uint64_t now_ns, uint32_t server, unsigned times)
{
	for (unsigned i = 0; i < times; i++)
		health_failure(&health, now_ns, server);
}

TEST(failures_in_a_row_eject_and_one_success_breaks_the_row)
{
	open_health(SERVERS);
	fail(100, 2, 2);
	health_success(&health, 101, 2, 1);
	fail(102, 2, 2);
	CHECK(health_usable(&health, 2));
	fail(103, 2, 1);
	CHECK(!health_usable(&health, 2));
	CHECK_EQ(health.ejections, 1);
	CHECK_EQ(health.ejected_count, 1);
	CHECK_EQ(health.fit_count, SERVERS - 1);
	for (unsigned i = 0; i < 1000; i++)
		CHECK_NE(health_draw(&health, &draw, 104), 2);
	health_close(&health);
}

TEST(the_pause_doubles_with_each_failed_trial_up_to_a_limit)
{
	uint64_t now_ns = 100, pause_ns = PAUSE_NS;

	open_health(SERVERS);
	fail(now_ns, 1, 3);
	for (unsigned i = 0; i < 12; i++) {
		CHECK_EQ(health_trial(&health, now_ns + pause_ns - 1), HEALTH_NOBODY);
		now_ns += pause_ns;
		CHECK_EQ(health_trial(&health, now_ns), 1);
		CHECK_EQ(health_trial(&health, now_ns), HEALTH_NOBODY); /* one at a time */
		CHECK(!health_usable(&health, 1));
		fail(now_ns, 1, 1);
		pause_ns = FM_MIN(2 * pause_ns, (uint64_t)PAUSE_NS << HEALTH_DOUBLINGS_MAX);
	}
	CHECK_EQ(health.ejections, 13);
	health_close(&health);
}

TEST(a_trial_that_succeeds_brings_the_server_back_slowly)
{
	unsigned got = 0;

	open_health(2);
	fail(100, 0, 3);
	CHECK_EQ(health_trial(&health, 100 + PAUSE_NS), 0);
	health_success(&health, 2000, 0, 10);
	CHECK(health_usable(&health, 0));
	CHECK_EQ(health.ejected_count, 0);
	/* a tenth of slow start: one in ten is let through */
	for (unsigned i = 0; i < 10000; i++)
		got += health_admits(&health, &draw, 2000 + SLOW_NS / 10, 0) ? 1 : 0;
	CHECK_LT(800, got);
	CHECK_LT(got, 1200);
	for (unsigned i = 0; i < 1000; i++)
		CHECK(health_admits(&health, &draw, 2000 + SLOW_NS, 0));
	health_close(&health);
}

TEST(a_trial_whose_end_nobody_tells_is_repeated)
{
	open_health(2);
	fail(100, 0, 3);
	CHECK_EQ(health_trial(&health, 1100), 0);
	CHECK_EQ(health_trial(&health, 1100 + PAUSE_NS - 1), HEALTH_NOBODY);
	CHECK_EQ(health_trial(&health, 1100 + PAUSE_NS), 0);
	health_undecided(&health, 2200, 0); /* cancelled: at once */
	CHECK_EQ(health_trial(&health, 2200), 0);
	health_close(&health);
}

TEST(an_rpc_of_before_the_ejection_does_not_bring_the_server_back)
{
	open_health(2);
	fail(1000, 0, 3);
	health_success(&health, 1100, 0, 200); /* sent at 900 */
	CHECK(!health_usable(&health, 0));
	health_success(&health, 1200, 0, 150); /* sent at 1050: a last resort */
	CHECK(health_usable(&health, 0));
	health_close(&health);
}

TEST(a_new_epoch_makes_an_ejected_server_worth_a_trial_at_once)
{
	open_health(2);
	fail(1000, 0, 3);
	health_restarted(&health, 1001, 0);
	CHECK(!health_usable(&health, 0));
	CHECK_EQ(health_trial(&health, 1001), 0);
	health_close(&health);
}

TEST(unhealthy_answers_eject_and_a_healthy_one_is_worth_a_trial)
{
	open_health(2);
	for (unsigned i = 0; i < 3; i++)
		health_answered(&health, 1000, 0, false);
	CHECK(!health_usable(&health, 0));
	CHECK_EQ(health_trial(&health, 1001), HEALTH_NOBODY);
	health_answered(&health, 1002, 0, true);
	CHECK_EQ(health_trial(&health, 1002), 0);
	/* but one that fails RPCs and answers probes stays out: the kernel answers for it */
	fail(1003, 1, 3);
	health_answered(&health, 1004, 1, true);
	CHECK_EQ(health_trial(&health, 1005), HEALTH_NOBODY);
	health_close(&health);
}

TEST(silence_ejects_only_who_used_to_answer_and_no_rpc_says_otherwise)
{
	open_health(3);
	for (unsigned i = 0; i < 100; i++)
		health_silent(&health, 1000, 0); /* its filter does not let us ask */
	CHECK(health_usable(&health, 0));
	health_answered(&health, 1000, 1, true);
	health_silent(&health, 1001, 1);
	health_silent(&health, 1002, 1);
	health_success(&health, 1003, 1, 5);
	health_silent(&health, 1004, 1);
	health_silent(&health, 1005, 1);
	CHECK(health_usable(&health, 1));
	health_silent(&health, 1006, 1);
	CHECK(!health_usable(&health, 1));
	health_close(&health);
}

TEST(a_server_that_is_out_is_asked_once_a_pause)
{
	uint32_t servers[4];

	open_health(4);
	CHECK_EQ(health_next_ns(&health), CLOCK_NEVER_NS);
	health_drains(&health, 500, 2, true);
	health_drains(&health, 700, 3, true);
	CHECK_EQ(health_next_ns(&health), 500 + PAUSE_NS);
	CHECK_EQ(health_probes(&health, 500 + PAUSE_NS - 1, servers, 4), 0);
	CHECK_EQ(health_probes(&health, 500 + PAUSE_NS, servers, 4), 1);
	CHECK_EQ(servers[0], 2);
	CHECK_EQ(health_probes(&health, 500 + PAUSE_NS, servers, 4), 0);
	CHECK_EQ(health_next_ns(&health), 700 + PAUSE_NS);
	CHECK_EQ(health_probes(&health, 90000, servers, 4), 2);
	CHECK_EQ(health_probes(&health, 90000, servers, 4), 0);
	health_drains(&health, 90001, 2, false);
	CHECK(health_usable(&health, 2));
	health_close(&health);
}

TEST(the_last_resort_goes_round_and_prefers_who_only_drains)
{
	open_health(3);
	fail(100, 1, 3);
	fail(200, 0, 3);
	fail(300, 2, 3);
	CHECK_EQ(health_draw(&health, &draw, 301), HEALTH_NOBODY);
	CHECK_EQ(health_last_resort(&health, 301), 1);
	CHECK_EQ(health_last_resort(&health, 302), 0);
	CHECK_EQ(health_last_resort(&health, 303), 2);
	CHECK_EQ(health_last_resort(&health, 304), 1);
	health_close(&health);

	open_health(3);
	fail(100, 1, 3);
	health_drains(&health, 200, 0, true);
	health_drains(&health, 300, 2, true);
	CHECK_EQ(health_last_resort(&health, 301), 0);
	CHECK_EQ(health_last_resort(&health, 302), 2);
	CHECK_EQ(health_last_resort(&health, 303), 0);
	health_close(&health);
}

TEST(everybody_failing_alike_changes_nobodys_share)
{
	uint64_t random = 3;
	unsigned refused = 0;

	open_health(SERVERS);
	for (unsigned i = 0; i < 40000; i++) {
		uint32_t server = (uint32_t)(test_random(&random) % SERVERS);

		if (test_random(&random) % 3 == 0)
			health_busy(&health, server);
		else
			health_success(&health, 1000 + i, server, 10);
		if (i > 10000)
			refused += health_admits(&health, &draw, 1000 + i, server) ? 0 : 1;
	}
	/* the moving shares differ by chance only: a third of the servers is a little above */
	CHECK_LT(refused, 30000 / 5);
	CHECK_EQ(health.fit_count, SERVERS);
	health_close(&health);
}
