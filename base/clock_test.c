/* base/clock_test.c */
#include "base/clock.h"

#include <time.h>

#include "base/test.h"

struct fake {
	uint64_t now_ns;
	unsigned pauses;
};

static uint64_t fake_now_ns(void *context)
{
	return ((struct fake *)context)->now_ns;
}

static void fake_pause(void *context, uint64_t until_ns)
{
	struct fake *fake = context;

	fake->pauses++;
	fake->now_ns = until_ns;
}

TEST(the_clock_never_goes_back)
{
	uint64_t last_ns = clock_now_ns();

	for (int i = 0; i < 100000; i++) {
		uint64_t now_ns = clock_now_ns();

		CHECK(now_ns >= last_ns);
		last_ns = now_ns;
	}
}

TEST(a_loop_of_pauses_ends_at_its_deadline)
{
	uint64_t until_ns = clock_now_ns() + 5 * NS_PER_MS;

	while (clock_now_ns() < until_ns)
		clock_pause(until_ns);
	CHECK(clock_now_ns() >= until_ns);
	clock_pause(0); /* a deadline long past must not block */
	CHECK(clock_now_ns() < until_ns + 10 * NS_PER_S);
}

TEST(a_shared_clock_is_the_real_time)
{
	int64_t shared_ns = (int64_t)clock_now_ns() + clock_shared_offset_ns();
	int64_t real_ns = (int64_t)time(NULL) * (int64_t)NS_PER_S;

	CHECK(shared_ns > real_ns - 2 * (int64_t)NS_PER_S);
	CHECK(shared_ns < real_ns + 10 * (int64_t)NS_PER_S);
}

TEST(a_simulators_clock_replaces_the_machines_and_can_be_taken_out)
{
	struct fake fake = {.now_ns = 17};
	struct clock_source source = {fake_now_ns, fake_pause, &fake};

	clock_set_source(&source);
	CHECK_EQ(clock_now_ns(), 17);
	clock_pause(1000);
	CHECK_EQ(clock_now_ns(), 1000);
	CHECK_EQ(fake.pauses, 1);
	clock_set_source(NULL);
	CHECK(clock_now_ns() > 1000);
}
