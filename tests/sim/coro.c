/*
 * tests/sim/coro.c: the simulator's time, chance and threads (see sim.h).
 *
 * Coroutines on stacks of their own, one runs at a time; the scheduler picks the next at random.
 * Time passes a little with every step and jumps when everybody sleeps. A coroutine that promised
 * to come through and does not within SIM_PATIENCE_NS of simulated time is a deadlock or a
 * livelock.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "tests/sim/sim.h"
#include "tests/sim/hooks_decl.h"

#define SIM_COROS_MAX 32
#define SIM_STACK_BYTES (256u << 10)
#define SIM_PATIENCE_NS (200 * NS_PER_S)
#define SIM_SWITCHES_MAX 400000000ull

struct sim_coro {
	const char *name;
	ucontext_t context;
	void *stack;
	sim_body *body;
	void *argument;
	uint64_t wake_ns; /* 0: runnable */
	bool done;
	const char *promise;
	uint64_t promise_detail, promise_ns;
};

static struct sim_coro coros[SIM_COROS_MAX];
static unsigned coros_count;
static struct sim_coro *coro_now;
static ucontext_t scheduler;
static uint64_t random_state;

int sim_yield_countdown = 1;
int sim_yield_spread = 16;

/* ---- chance ---- */

uint64_t sim_mix(uint64_t v)
{
	v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
	return v ^ (v >> 31);
}

void sim_seed(uint64_t seed)
{
	random_state = sim_mix(seed + 1);
}

uint64_t sim_random(void)
{
	return sim_mix(random_state += 0x9e3779b97f4a7c15ull);
}

uint64_t sim_below(uint64_t n)
{
	return sim_random() % n;
}

bool sim_chance(uint32_t per_million)
{
	return per_million != 0 && sim_below(1000000) < per_million;
}

/* ---- switching ---- */

static void coro_switch(void)
{
	struct sim_coro *self = coro_now;
	swapcontext(&self->context, &scheduler);
}

struct sim_coro *sim_self(void)
{
	return coro_now;
}

/* Bursts: mostly short gaps, now and then a long one, so that both tight races and long runs are
 * tried. */
static int coro_gap(void)
{
	if (sim_below(8) == 0)
		return 1 + (int)sim_below(400);
	return 1 + (int)sim_below((uint64_t)sim_yield_spread);
}

static void coro_yield(void)
{
	coro_now->wake_ns = 0;
	/* Now and then the machine takes the CPU away for long: much happens between two steps. */
	if (sim_below(64) == 0)
		coro_now->wake_ns = sim.now_ns + 1 + sim_below(1ull << sim_below(21));
	coro_switch();
}

void sim_yield_now(void)
{
	sim_yield_countdown = coro_gap();
	if (coro_now != NULL && !sim.frozen)
		coro_yield();
}

void sim_yield(void)
{
	if (--sim_yield_countdown <= 0)
		sim_yield_now();
}

void sim_block(uint64_t until_ns)
{
	FM_ASSERT(coro_now != NULL);
	coro_now->wake_ns = until_ns == 0 ? 1 : until_ns;
	coro_switch();
}

void sim_wake(struct sim_coro *coro)
{
	coro->wake_ns = 0;
}

void sim_sleep_ns(uint64_t ns)
{
	sim_block(sim.now_ns + ns);
}

int sim_mutex_lock(pthread_mutex_t *mutex)
{
	sim_yield();
	while (pthread_mutex_trylock(mutex) != 0)
		coro_yield(); /* also while frozen: its owner is in the middle of something */
	return 0;
}

int sim_mutex_unlock(pthread_mutex_t *mutex)
{
	int rc = pthread_mutex_unlock(mutex);
	sim_yield();
	return rc;
}

static void coro_main(void)
{
	coro_now->body(coro_now->argument);
	coro_now->done = true;
	coro_switch();
}

/* A place for one more, perhaps that of one that ended. */
static struct sim_coro *coro_room(void)
{
	for (unsigned i = 0; i < coros_count; i++)
		if (coros[i].done)
			return &coros[i];
	FM_ASSERT_LT(coros_count, SIM_COROS_MAX);
	struct sim_coro *c = &coros[coros_count++];
	c->stack = mmap(NULL, SIM_STACK_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	FM_ASSERT(c->stack != MAP_FAILED);
	return c;
}

struct sim_coro *sim_spawn(const char *name, sim_body *body, void *argument)
{
	struct sim_coro *c = coro_room();
	void *stack = c->stack;
	*c = (struct sim_coro){.name = name, .body = body, .argument = argument, .stack = stack};
	getcontext(&c->context);
	c->context.uc_stack.ss_sp = c->stack;
	c->context.uc_stack.ss_size = SIM_STACK_BYTES;
	c->context.uc_link = NULL;
	makecontext(&c->context, coro_main, 0);
	return c;
}

void sim_kill(struct sim_coro *coro)
{
	FM_ASSERT(coro != coro_now);
	coro->done = true;
	coro->promise = NULL;
}

void sim_promise(const char *what, uint64_t detail)
{
	coro_now->promise_detail = detail;
	coro_now->promise_ns = sim.now_ns;
	coro_now->promise = what;
}

void sim_promise_kept(void)
{
	coro_now->promise = NULL;
}

static void coro_check_promises(void)
{
	for (unsigned i = 0; i < coros_count; i++) {
		struct sim_coro *c = &coros[i];
		if (c->promise == NULL || sim.now_ns - c->promise_ns < SIM_PATIENCE_NS)
			continue;
		uint32_t page = (uint32_t)c->promise_detail;
		struct span_word w = {0};
		if (page < sim.core.catalog.header->range_pages)
			w = span_load(sim.core.catalog.words, (struct page_id){page});
		sim_fail("%s is stuck: %s %u for %llu ms (word %s flags %x ssid %u pos %u)",
			c->name, c->promise, page,
			(unsigned long long)((sim.now_ns - c->promise_ns) / NS_PER_MS),
			span_state_name(span_state(w)), span_flags(w), span_ssid(w), span_pos(w));
	}
}

/* The next to run, time moved on as need be. */
static struct sim_coro *coro_pick(void)
{
	for (;;) {
		uint64_t next = sim_fabric_advance();
		struct sim_coro *ready[SIM_COROS_MAX];
		unsigned count = 0;
		for (unsigned i = 0; i < coros_count; i++) {
			struct sim_coro *c = &coros[i];
			if (c->done)
				continue;
			if (c->wake_ns <= sim.now_ns)
				ready[count++] = c;
			else
				next = FM_MIN(next, c->wake_ns);
		}
		if (count > 0)
			return ready[sim_below(count)];
		if (next == CLOCK_NEVER_NS)
			sim_fail("everybody sleeps for ever");
		sim.now_ns = FM_MAX(next, sim.now_ns + 1);
	}
}

void sim_run(bool (*done)(void))
{
	while (!done()) {
		sim.now_ns += 10 + sim_below(200);
		if (++sim.switches % 4096 == 0)
			coro_check_promises();
		if (sim.switches > SIM_SWITCHES_MAX)
			sim_fail("no end in sight after %llu switches",
				(unsigned long long)sim.switches);
		coro_now = coro_pick();
		coro_now->wake_ns = 0;
		swapcontext(&scheduler, &coro_now->context);
		coro_now = NULL;
	}
}

/* ---- the runtime's clock ---- */

static uint64_t coro_clock_now(void *context)
{
	(void)context;
	return sim.now_ns += 1 + sim_below(30);
}

static void coro_clock_pause(void *context, uint64_t until_ns)
{
	(void)context;
	if (coro_now == NULL || until_ns <= sim.now_ns)
		return;
	sim_block(sim.now_ns + 1 + sim_below(until_ns - sim.now_ns));
}

void sim_clock_open(void)
{
	static const struct clock_source source = {coro_clock_now, coro_clock_pause, NULL};
	sim.now_ns = NS_PER_S;
	clock_set_source(&source);
}

/* ---- telling ---- */

void sim_say(const char *format, ...)
{
	va_list arguments;
	if (!sim.verbose)
		return;
	printf("%12.6f %-9s ", (double)sim.now_ns / 1e9, coro_now ? coro_now->name : "-");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

void sim_fail(const char *format, ...)
{
	va_list arguments;
	printf("sim: FAILED at %.6f s in %s: ", (double)sim.now_ns / 1e9,
		coro_now ? coro_now->name : "the scheduler");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\nsim: ");
	sim_print_state();
	sim_print_command();
	fflush(stdout);
	_exit(1);
}
