/* base/futex_test.c */
#include "base/futex.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/test.h"

static _Atomic uint32_t word, sleeping;

TEST(a_word_that_has_changed_does_not_sleep)
{
	atomic_store(&word, 5);
	CHECK_EQ(futex_wait(&word, 4, CLOCK_NEVER_NS), -EAGAIN);
}

TEST(a_sleep_ends_at_its_timeout_and_not_before)
{
	uint64_t begin_ns = clock_now_ns();
	int result;

	atomic_store(&word, 5);
	do {
		result = futex_wait(&word, 5, 20 * NS_PER_MS);
	} while (result == -EINTR);
	CHECK_EQ(result, -ETIMEDOUT);
	CHECK(clock_now_ns() - begin_ns >= 20 * NS_PER_MS);
}

static void *sleep_until_seven(void *unused)
{
	atomic_fetch_add(&sleeping, 1);
	while (atomic_load(&word) != 7)
		futex_wait(&word, 5, CLOCK_NEVER_NS);
	return unused;
}

TEST(a_wake_reaches_all_sleepers)
{
	pthread_t threads[4];

	atomic_store(&word, 5);
	atomic_store(&sleeping, 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, sleep_until_seven, NULL), 0);
	while (atomic_load(&sleeping) != 4)
		clock_pause(CLOCK_NEVER_NS);
	atomic_store(&word, 7);
	futex_wake(&word, INT32_MAX);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0); /* hangs if a wake was lost */
}
