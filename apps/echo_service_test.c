/*
 * apps/echo_service_test.c: service times of fm-echo: what they are asked to be, and that a worker
 * that was late makes up for it.
 */
#include <errno.h>
#include <pthread.h>

#include "apps/echo_service.h"
#include "base/clock.h"
#include "base/test.h"

static void no_poll_point(void)
{
}

static unsigned poll_points;

static void count_poll_point(void)
{
	poll_points++;
}

TEST(a_shape_and_a_mean_are_read)
{
	static const char *const wrong[] = {
		"", "exp", "exp:", "exp:x", ":1ms", "expo:1ms", "ex:1ms", "exp:2s", "exp:1ms:2"};
	struct echo_service service = {0};

	CHECK_EQ(echo_service_parse("exp:50us", &service), 0);
	CHECK_EQ(service.shape, CHANCE_EXPONENTIAL);
	CHECK_EQ(service.mean_ns, 50000);
	CHECK_EQ(echo_service_parse("heavy:1ms", &service), 0);
	CHECK_EQ(service.shape, CHANCE_HEAVY);
	CHECK_EQ(echo_service_parse("const:0", &service), 0);
	CHECK_EQ(service.mean_ns, 0);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(wrong); i++)
		CHECK_EQ(echo_service_parse(wrong[i], &service), -EINVAL);
}

TEST(requests_that_came_together_take_the_sum_of_their_times)
{
	struct echo_service service = {.shape = CHANCE_CONSTANT, .mean_ns = 2 * NS_PER_MS};
	uint64_t begin_ns = clock_now_ns();

	for (unsigned i = 0; i < 10; i++)
		echo_serve(&service, begin_ns, no_poll_point);
	CHECK_LE(20 * NS_PER_MS, clock_now_ns() - begin_ns);
	/* It overslept each time, but the times do not add up. */
	CHECK_LT(clock_now_ns() - begin_ns, 20 * NS_PER_MS + 15 * NS_PER_MS);
}

static void *serve_late(void *argument)
{
	struct echo_service service = {.shape = CHANCE_CONSTANT, .mean_ns = 100 * NS_PER_MS};
	uint64_t *took_ns = argument, begin_ns = clock_now_ns();

	/* It arrived 300 ms ago: it should have been done 200 ms ago. */
	echo_serve(&service, begin_ns - 300 * NS_PER_MS, no_poll_point);
	*took_ns = clock_now_ns() - begin_ns;
	return NULL;
}

TEST(a_worker_that_was_late_does_not_pass_it_on)
{
	uint64_t took_ns = 0;
	pthread_t worker; /* a fresh one: nothing served before */

	CHECK_EQ(pthread_create(&worker, NULL, serve_late, &took_ns), 0);
	pthread_join(worker, NULL);
	CHECK_LT(took_ns, 50 * NS_PER_MS);
}

TEST(a_spinning_worker_gives_others_their_chance)
{
	struct echo_service service = {
		.shape = CHANCE_CONSTANT, .mean_ns = 2 * NS_PER_MS, .spins = true};
	uint64_t begin_ns = clock_now_ns();

	echo_serve(&service, begin_ns, count_poll_point);
	CHECK_LE(2 * NS_PER_MS, clock_now_ns() - begin_ns);
	CHECK_LT(0, poll_points);
}
