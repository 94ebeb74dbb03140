/*
 * farmem/gate_test.c: while a gate is closed nobody is inside.
 */
#include "farmem/gate.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/test.h"

#define WALKERS 3
#define CLOSINGS 300

static struct gate gate;
static _Atomic bool stop;
static _Atomic uint32_t inside;
static _Atomic uint64_t walks;

TEST(a_closed_gate_lets_nobody_in_and_an_open_one_everybody)
{
	gate_reset(&gate);
	CHECK(gate_try(&gate));
	CHECK(gate_try(&gate));
	gate_leave(&gate);
	gate_leave(&gate);
	gate_close(&gate);
	CHECK(gate_is_closed(&gate));
	CHECK(!gate_try(&gate));
	gate_open(&gate);
	CHECK(!gate_is_closed(&gate));
	gate_enter(&gate);
	gate_leave(&gate);
}

/* Who walks is inside now and then, and waits for it while it is closed. */
static void *walk(void *argument)
{
	while (!stop) {
		if (argument != NULL || !gate_try(&gate))
			gate_enter(&gate);
		inside++;
		inside--;
		gate_leave(&gate);
		walks++;
	}
	return NULL;
}

TEST(who_closes_it_waits_for_those_inside_and_they_wait_for_him)
{
	pthread_t walkers[WALKERS];
	gate_reset(&gate);
	stop = false;
	walks = 0;
	for (unsigned i = 0; i < WALKERS; i++)
		CHECK_EQ(pthread_create(&walkers[i], NULL, walk, i == 0 ? NULL : &gate), 0);
	for (unsigned i = 0; i < CLOSINGS; i++) {
		uint64_t before = walks;
		gate_close(&gate);
		for (unsigned look = 0; look < 100; look++)
			CHECK_EQ(inside, 0);
		gate_open(&gate);
		while (walks == before)
			clock_pause(clock_now_ns() + NS_PER_US);
	}
	stop = true;
	for (unsigned i = 0; i < WALKERS; i++)
		pthread_join(walkers[i], NULL);
}
