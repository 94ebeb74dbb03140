/*
 * lb/channel_test.c: channels against real servers on this machine: processes of their own where
 * they are killed, threads of this one where handlers have to be looked into.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/test.h"
#include "farmem/rpc.h"
#include "lb/channel.h"
#include "lb/channel_test.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* --- counting allocations -----------------------------------------------------------------------
 */

#ifndef SANITIZED
static _Atomic uint64_t allocations;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);

void *malloc(size_t bytes)
{
	atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
	return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
	return __libc_calloc(count, bytes);
}
#endif

/* --- channels -----------------------------------------------------------------------------------
 */

static struct fm_rpc_channel *channel_open(const char *where, const char *policy)
{
	struct fm_rpc_options options = {
		.servers = where, .policy = policy, .deadline_ns = 5 * NS_PER_S, .seed = 7};
	struct fm_rpc_channel *channel;

	CHECK_EQ(fm_rpc_open(&channel, &options), 0);
	return channel;
}

static int call_number(struct fm_rpc_channel *channel, uint64_t *number)
{
	size_t bytes = sizeof(*number);

	return fm_rpc_call(channel, METHOD_NUMBER, NULL, 0, number, &bytes);
}

struct outcome {
	int status;
	size_t bytes;
	unsigned times;
};

static void note(void *context, int status, size_t bytes)
{
	struct outcome *outcome = context;

	outcome->status = status;
	outcome->bytes = bytes;
	outcome->times++;
}

static int start_sleep(struct fm_rpc_channel *channel, uint8_t ms, uint64_t deadline_ns,
	struct outcome *outcome, uint64_t *id)
{
	struct fm_rpc_call_options options = {
		.method = METHOD_SLEEP,
		.req = &ms,
		.req_bytes = 1,
		.deadline_ns = deadline_ns,
		.done = note,
		.context = outcome,
	};

	return fm_rpc_start(channel, &options, id);
}

static void poll_until(struct fm_rpc_channel *channel, const unsigned *times, unsigned wanted)
{
	uint64_t end_ns = clock_now_ns() + 10 * NS_PER_S;

	while (*times < wanted && clock_now_ns() < end_ns)
		CHECK_LE(0, fm_rpc_poll(channel, 10 * NS_PER_MS));
	CHECK_LE(wanted, *times);
}

static uint64_t stat_of(struct fm_rpc_channel *channel, const char *key)
{
	char text[CHANNEL_STATS_BYTES], pattern[64];
	const char *at;

	CHECK_LT(0, fm_rpc_stats(channel, text, sizeof(text)));
	snprintf(pattern, sizeof(pattern), "\"%s\":", key);
	at = strstr(text, pattern);
	CHECK(at != NULL);
	return strtoull(at + strlen(pattern), NULL, 10);
}

TEST(messages_of_any_size_up_to_the_limit_come_back_whole)
{
	static const size_t sizes[] = {0, 1, 64, 1400, 1500, 9000, FM_RPC_MESSAGE_BYTES_MAX};
	static uint8_t req[FM_RPC_MESSAGE_BYTES_MAX + 1], resp[FM_RPC_MESSAGE_BYTES_MAX];
	struct fm_rpc_channel *channel;
	size_t bytes = sizeof(resp);
	uint64_t random = 3;

	processes_start(1);
	channel = channel_open(servers, "mew");
	for (unsigned i = 0; i < FM_ARRAY_COUNT(sizes); i++) {
		for (size_t at = 0; at < sizes[i]; at++)
			req[at] = (uint8_t)test_random(&random);
		bytes = sizeof(resp);
		CHECK_EQ(fm_rpc_call(channel, METHOD_ECHO, req, sizes[i], resp, &bytes), 0);
		CHECK_EQ(bytes, sizes[i]);
		CHECK(memcmp(req, resp, bytes) == 0);
	}
	bytes = sizeof(resp);
	CHECK_EQ(fm_rpc_call(channel, METHOD_ECHO, req, sizeof(req), resp, &bytes), -EMSGSIZE);
	bytes = 10; /* less room than the reply needs */
	CHECK_EQ(fm_rpc_call(channel, METHOD_ECHO, req, 100, resp, &bytes), -EMSGSIZE);
	fm_rpc_close(channel);
	processes_end();
}

TEST(a_handlers_error_and_a_missing_method_reach_the_caller)
{
	struct fm_rpc_channel *channel;

	processes_start(1);
	channel = channel_open(servers, "random");
	CHECK_EQ(fm_rpc_call(channel, METHOD_FAIL, "x", 1, NULL, NULL), -EPERM);
	CHECK_EQ(fm_rpc_call(channel, 4711, "x", 1, NULL, NULL), -ENOSYS);
	fm_rpc_close(channel);
	processes_end();
}

TEST(mistakes_in_the_options_are_refused)
{
	static const struct fm_rpc_options wrong[] = {
		{.servers = NULL},
		{.servers = ""},
		{.servers = "127.0.0.1:7500,,127.0.0.1:7501"},
		{.servers = "no port"},
		{.servers = "127.0.0.1:99999"},
		{.servers = "127.0.0.1:7500", .policy = "best"},
		{.servers = "127.0.0.1:7500", .policy = "jsq"}, /* the simulator's oracle */
		{.servers = "127.0.0.1:7500", .calls_max = CHANNEL_CALLS_MAX + 1},
		{.servers = "127.0.0.1:7500", .retries = CHANNEL_RETRIES_MAX + 1},
	};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(wrong); i++) {
		struct fm_rpc_channel *channel = NULL;

		CHECK_EQ(fm_rpc_open(&channel, &wrong[i]), -EINVAL);
		CHECK(channel == NULL);
	}
	fm_rpc_close(NULL);
}

/* Calls until none fails for a while; how many failed on the way. */
static unsigned settle(struct fm_rpc_channel *channel, unsigned in_a_row)
{
	unsigned good = 0, failed = 0;
	uint64_t end_ns = clock_now_ns() + 20 * NS_PER_S;

	while (good < in_a_row && clock_now_ns() < end_ns) {
		uint64_t number;
		int rc = call_number(channel, &number);

		failed += rc != 0;
		good = rc == 0 ? good + 1 : 0;
	}
	CHECK_EQ(good, in_a_row);
	return failed;
}

TEST(a_killed_server_is_left_out_and_taken_back_when_it_returns)
{
	static const char *const policies[] = {"random", "p2c", "prequal", "mew"};

	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		struct fm_rpc_options options = {
			.policy = policies[p], .servers = servers, .deadline_ns = 50 * NS_PER_MS};
		struct fm_rpc_channel *channel;
		uint64_t number = 0, end_ns;

		processes_start(3);
		CHECK_EQ(fm_rpc_open(&channel, &options), 0);
		(void)settle(channel, 60); /* deadlines are missed on a busy machine */
		process_kill(&processes[1]);
		CHECK_LE(settle(channel, 60), 20); /* five failures, and its trials since */
		/* Others notice its silence to their probes first, and leave it out by that. */
		if (p == 0)
			CHECK_LT(0, stat_of(channel, "ejections"));
		processes[1] = process_start(processes[1].port, 1);
		end_ns = clock_now_ns() + 20 * NS_PER_S;
		while (number != 1 && clock_now_ns() < end_ns)
			(void)call_number(channel, &number);
		CHECK_EQ(number, 1);
		CHECK_EQ(stat_of(channel, "in_flight"), 0);
		fm_rpc_close(channel);
		processes_end();
	}
}

TEST(with_all_servers_dead_every_call_ends_soon_and_recovers_with_them)
{
	struct fm_rpc_options options = {.servers = servers, .deadline_ns = 20 * NS_PER_MS};
	struct fm_rpc_channel *channel;
	uint64_t number;

	processes_start(2);
	CHECK_EQ(fm_rpc_open(&channel, &options), 0);
	process_kill(&processes[0]);
	process_kill(&processes[1]);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t begin_ns = clock_now_ns();
		int rc = call_number(channel, &number);

		CHECK(rc == -ETIMEDOUT || rc == -ECONNREFUSED || rc == -EHOSTUNREACH);
		CHECK_LT(clock_now_ns() - begin_ns, 2 * NS_PER_S);
	}
	processes[0] = process_start(processes[0].port, 0);
	processes[1] = process_start(processes[1].port, 1);
	settle(channel, 20);
	fm_rpc_close(channel);
	processes_end();
}

static uint64_t served(struct fm_rpc_server *server)
{
	char text[2048];
	const char *at;

	CHECK_LT(0, fm_rpc_server_stats(server, text, sizeof(text)));
	at = strstr(text, "\"replies\":");
	CHECK(at != NULL);
	return strtoull(at + strlen("\"replies\":"), NULL, 10);
}

TEST(with_every_policy_calls_at_once_are_shared_by_the_servers)
{
	static const char *const policies[] = {"random", "rr", "least", "p2c", "prequal",
		"prequal-tuned", "jiq", "jbsq", "c3", "mew-fixed", "mew"};

	near_open(3, 1, 64);
	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		uint64_t before[3];

		struct fm_rpc_channel *channel = channel_open(servers, policies[p]);
		struct outcome outcome = {0};

		for (unsigned i = 0; i < 3; i++)
			before[i] = served(near[i]);
		for (unsigned i = 0; i < 150; i++) {
			CHECK_EQ(start_sleep(channel, 1, 0, &outcome, NULL), 0);
			if (i % 10 == 9)
				poll_until(channel, &outcome.times, i - 5);
		}
		poll_until(channel, &outcome.times, 150);
		CHECK_EQ(outcome.status, 0);
		for (unsigned i = 0; i < 3; i++)
			CHECK_LT(before[i] + 5, served(near[i]));
		CHECK_EQ(stat_of(channel, "replies"), 150);
		fm_rpc_close(channel);
	}
	near_close();
}

TEST(a_deadline_ends_a_call_whatever_the_server_does)
{
	struct fm_rpc_channel *channel;
	struct outcome outcome = {0};
	uint64_t begin_ns;

	near_open(1, 1, 8);
	channel = channel_open(servers, "random");
	begin_ns = clock_now_ns();
	CHECK_EQ(start_sleep(channel, 200, 20 * NS_PER_MS, &outcome, NULL), 0);
	poll_until(channel, &outcome.times, 1);
	CHECK_EQ(outcome.status, -ETIMEDOUT);
	CHECK_LE(20 * NS_PER_MS, clock_now_ns() - begin_ns);
	CHECK_LT(clock_now_ns() - begin_ns, 190 * NS_PER_MS);
	CHECK_EQ(stat_of(channel, "timeouts"), 1);
	fm_rpc_close(channel);
	near_close();
}

TEST(a_cancelled_call_ends_once_as_cancelled)
{
	struct outcome outcomes[2] = {{0}, {0}};
	struct fm_rpc_channel *channel;
	uint64_t ids[2];

	near_open(1, 1, 8);
	channel = channel_open(servers, "random");
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(start_sleep(channel, 50, 0, &outcomes[i], &ids[i]), 0);
	CHECK_NE(ids[0], ids[1]);
	CHECK_EQ(fm_rpc_cancel(channel, ids[0]), 0);
	poll_until(channel, &outcomes[0].times, 1);
	CHECK_EQ(outcomes[0].status, -ECANCELED);
	CHECK_EQ(outcomes[1].times, 0);
	CHECK_EQ(fm_rpc_cancel(channel, ids[0]), -ENOENT);
	CHECK_EQ(fm_rpc_cancel(channel, ids[0] ^ (1ull << 40)), -ENOENT);
	CHECK_EQ(fm_rpc_cancel(channel, UINT64_MAX), -ENOENT);
	poll_until(channel, &outcomes[1].times, 1);
	CHECK_EQ(outcomes[1].status, 0);
	CHECK_EQ(outcomes[0].times, 1);
	CHECK_EQ(stat_of(channel, "in_flight"), 0);
	fm_rpc_close(channel);
	near_close();
}

TEST(a_refusal_goes_to_another_server_and_at_last_to_the_caller)
{
	struct outcome outcomes[40] = {{0}};
	struct fm_rpc_channel *channel;
	unsigned ended = 0, refused = 0;

	near_open(2, 1, 1); /* one served, one waiting: four in all */
	channel = channel_open(servers, "rr");
	for (unsigned i = 0; i < 40; i++)
		CHECK_EQ(start_sleep(channel, 100, 0, &outcomes[i], NULL), 0);
	while (ended < 40) {
		CHECK_LE(0, fm_rpc_poll(channel, NS_PER_S));
		ended = refused = 0;
		for (unsigned i = 0; i < 40; i++) {
			ended += outcomes[i].times;
			refused += outcomes[i].times > 0 && outcomes[i].status == -EBUSY;
		}
	}
	CHECK_LE(30, refused);
	CHECK_LT(refused, 40);
	CHECK_LT(0, stat_of(channel, "retries"));
	CHECK_EQ(stat_of(channel, "overloads"), refused);
	CHECK_EQ(stat_of(channel, "replies"), 40 - refused);
	fm_rpc_close(channel);
	near_close();
}

TEST(one_call_too_many_is_refused_at_once)
{
	struct fm_rpc_options options = {.servers = servers, .policy = "random", .calls_max = 3};
	struct outcome outcomes[4] = {{0}};
	struct fm_rpc_channel *channel;

	near_open(1, 1, 8);
	CHECK_EQ(fm_rpc_open(&channel, &options), 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(start_sleep(channel, 10, 0, &outcomes[i], NULL), 0);
	CHECK_EQ(start_sleep(channel, 10, 0, &outcomes[3], NULL), -EAGAIN);
	CHECK_EQ(fm_rpc_call(channel, METHOD_ECHO, NULL, 0, NULL, NULL), -EAGAIN);
	poll_until(channel, &outcomes[2].times, 1);
	CHECK_EQ(start_sleep(channel, 1, 0, &outcomes[3], NULL), 0);
	poll_until(channel, &outcomes[3].times, 1);
	fm_rpc_close(channel);
	near_close();
}

TEST(closing_ends_what_is_in_flight_before_it_returns)
{
	struct outcome outcomes[8] = {{0}};
	struct fm_rpc_channel *channel;

	near_open(2, 1, 8);
	channel = channel_open(servers, "mew");
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(start_sleep(channel, 30, 0, &outcomes[i], NULL), 0);
	fm_rpc_close(channel);
	for (unsigned i = 0; i < 8; i++) {
		CHECK_EQ(outcomes[i].times, 1);
		CHECK_EQ(outcomes[i].status, -ECANCELED);
	}
	near_close();
}

/* A policy that keeps calls back until a server has room. */
TEST(parked_calls_are_sent_in_turn_and_time_out_in_time)
{
	struct outcome outcomes[12] = {{0}}, late = {0};
	struct fm_rpc_channel *channel;

	near_open(1, 1, 64);
	channel = channel_open(servers, "jbsq");
	for (unsigned i = 0; i < 12; i++)
		CHECK_EQ(start_sleep(channel, 10, 0, &outcomes[i], NULL), 0);
	CHECK_EQ(start_sleep(channel, 1, 15 * NS_PER_MS, &late, NULL), 0);
	CHECK_LT(0, stat_of(channel, "parked"));
	poll_until(channel, &outcomes[11].times, 1);
	CHECK_EQ(late.times, 1);
	CHECK_EQ(late.status, -ETIMEDOUT);
	for (unsigned i = 0; i < 12; i++)
		CHECK_EQ(outcomes[i].status, 0);
	fm_rpc_close(channel);
	near_close();
}

struct chain {
	struct fm_rpc_channel *channel;
	unsigned left, ended;
	int call_in_callback, poll_in_callback;
};

static void chain_next(void *context, int status, size_t bytes)
{
	struct chain *chain = context;
	struct fm_rpc_call_options options = {
		.method = METHOD_ECHO, .done = chain_next, .context = chain};

	(void)bytes;
	CHECK_EQ(status, 0);
	chain->ended++;
	chain->call_in_callback = fm_rpc_call(chain->channel, METHOD_ECHO, NULL, 0, NULL, NULL);
	chain->poll_in_callback = fm_rpc_poll(chain->channel, 0);
	if (--chain->left > 0)
		CHECK_EQ(fm_rpc_start(chain->channel, &options, NULL), 0);
}

TEST(a_callback_may_start_the_next_call_but_not_wait)
{
	struct chain chain = {.left = 50};
	struct fm_rpc_call_options options = {
		.method = METHOD_ECHO, .done = chain_next, .context = &chain};

	near_open(2, 1, 8);
	chain.channel = channel_open(servers, "mew");
	CHECK_EQ(fm_rpc_start(chain.channel, &options, NULL), 0);
	poll_until(chain.channel, &chain.ended, 50);
	CHECK_EQ(chain.call_in_callback, -EDEADLK);
	CHECK_EQ(chain.poll_in_callback, -EDEADLK);
	fm_rpc_close(chain.channel);
	near_close();
}

TEST(probes_are_answered_and_a_policy_that_asks_first_gets_its_answers)
{
	struct fm_rpc_channel *channel;
	uint64_t number;

	near_open(3, 1, 8);
	channel = channel_open(servers, "prequal"); /* three probes per call */
	for (unsigned i = 0; i < 200; i++)
		CHECK_EQ(call_number(channel, &number), 0);
	CHECK_LE(0, fm_rpc_poll(channel, 30 * NS_PER_MS));
	CHECK_LE(500, stat_of(channel, "sent"));
	CHECK_LE(500, stat_of(channel, "answered"));
	fm_rpc_close(channel);
	channel = channel_open(servers, "p2c");
	for (unsigned i = 0; i < 200; i++)
		CHECK_EQ(call_number(channel, &number), 0);
	CHECK_EQ(stat_of(channel, "asked"), 200);
	CHECK_LT(stat_of(channel, "ask_timeouts"), 150);
	fm_rpc_close(channel);
	near_close();
}

TEST(servers_of_all_kinds_of_addresses_serve_one_channel)
{
	char unix_address[64], shm_address[64], list[256];
	struct fm_rpc_channel *channel;
	unsigned kinds = 1;

	snprintf(unix_address, sizeof(unix_address), "unix:/tmp/farmem-channel-%d.u", getpid());
	snprintf(shm_address, sizeof(shm_address), "shm:/tmp/farmem-channel-%d.s", getpid());
	near[0] = serve("127.0.0.1:0", 1, 8);
	near[1] = serve(unix_address, 1, 8);
	near[2] = serve(shm_address, 1, 8);
	near[3] = NULL;
	CHECK(near[0] != NULL && near[1] != NULL && near[2] != NULL);
	snprintf(list, sizeof(list), "127.0.0.1:%u,%s,%s", fm_rpc_server_port(near[0]),
		unix_address, shm_address);
	channel = channel_open(list, "prequal");
	for (unsigned i = 0; i < 300; i++) {
		char resp[8];
		size_t bytes = sizeof(resp);

		CHECK_EQ(fm_rpc_call(channel, METHOD_ECHO, "abcdefgh", 8, resp, &bytes), 0);
		CHECK(bytes == 8 && memcmp(resp, "abcdefgh", 8) == 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		char text[2048];

		CHECK_LT(0, fm_rpc_server_stats(near[i], text, sizeof(text)));
		kinds += strstr(text, "\"requests\":0,") == NULL;
		CHECK(strstr(text, "\"probes_in_user_space\":0,") == NULL);
	}
	CHECK_EQ(kinds, 4);
	fm_rpc_close(channel);
	near_close();
	unlink(unix_address + 5);
	unlink(shm_address + 4);
}

/* --- threads
 * --------------------------------------------------------------------------------------
 */

#define THREADS 8
#define THREAD_CALLS 300

static struct fm_rpc_channel *shared;
static _Atomic unsigned thread_errors, thread_cancelled;

static void *thread_calls(void *argument)
{
	uint64_t random = (uint64_t)(uintptr_t)argument;

	for (unsigned i = 0; i < THREAD_CALLS; i++) {
		uint64_t req = test_random(&random), resp = 0;
		size_t bytes = sizeof(resp);
		int rc = fm_rpc_call(shared, METHOD_ECHO, &req, sizeof(req), &resp, &bytes);

		if (rc != 0 || bytes != sizeof(resp) || resp != req)
			atomic_fetch_add(&thread_errors, 1);
	}
	return NULL;
}

static void thread_note(void *context, int status, size_t bytes)
{
	(void)bytes;
	if (status != 0)
		atomic_fetch_add(&thread_errors, 1);
	atomic_fetch_add((_Atomic unsigned *)context, 1);
}

static void *thread_starts(void *argument)
{
	_Atomic unsigned ended = 0;
	struct fm_rpc_call_options options = {
		.method = METHOD_ECHO, .req = "x", .req_bytes = 1, .done = thread_note};
	char resp[1];

	(void)argument;
	options.resp = resp;
	options.resp_capacity = 1;
	options.context = &ended;
	for (unsigned i = 0; i < THREAD_CALLS; i++) {
		if (fm_rpc_start(shared, &options, NULL) != 0)
			atomic_fetch_add(&thread_errors, 1);
		while (atomic_load(&ended) + 16 < i)
			(void)fm_rpc_poll(shared, NS_PER_MS);
	}
	while (atomic_load(&ended) < THREAD_CALLS)
		(void)fm_rpc_poll(shared, NS_PER_MS);
	return NULL;
}

TEST(many_threads_share_a_channel)
{
	static const char *const policies[] = {"p2c", "mew"};

	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		pthread_t threads[THREADS];

		near_open(3, 1, 64);
		shared = channel_open(servers, policies[p]);
		thread_errors = 0;
		for (unsigned i = 0; i < THREADS; i++)
			CHECK_EQ(pthread_create(&threads[i], NULL,
					 i % 4 == 3 ? thread_starts : thread_calls,
					 (void *)(uintptr_t)(i + 1)),
				0);
		for (unsigned i = 0; i < 20; i++) { /* one in a hurry, among them */
			CHECK_LE(0, stat_of(shared, "replies"));
			pause_ns(NS_PER_MS);
		}
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		CHECK_EQ(thread_errors, 0);
		CHECK_EQ(stat_of(shared, "replies"), THREADS * THREAD_CALLS);
		CHECK_EQ(stat_of(shared, "in_flight"), 0);
		fm_rpc_close(shared);
		near_close();
	}
}

static void *thread_sleeps(void *argument)
{
	uint8_t ms = 250;

	(void)argument;
	if (fm_rpc_call(shared, METHOD_SLEEP, &ms, 1, NULL, NULL) == -ECANCELED)
		atomic_fetch_add(&thread_cancelled, 1);
	return NULL;
}

TEST(closing_sends_waiting_threads_home)
{
	pthread_t threads[4];
	uint64_t begin_ns;

	near_open(1, 4, 8);
	shared = channel_open(servers, "random");
	thread_cancelled = 0;
	sleeps_begun = 0;
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, thread_sleeps, NULL), 0);
	while (atomic_load(&sleeps_begun) < 4)
		pause_ns(NS_PER_MS);
	begin_ns = clock_now_ns();
	fm_rpc_close(shared);
	CHECK_LT(clock_now_ns() - begin_ns, 200 * NS_PER_MS);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(thread_cancelled, 4);
	near_close();
}

TEST(calls_allocate_nothing)
{
#ifdef SANITIZED
	TEST_SKIP("the sanitizer's own allocator counts differently");
#else
	static const char *const policies[] = {"mew", "prequal", "p2c", "c3", "jbsq"};
	uint64_t number;

	processes_start(3);
	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		struct fm_rpc_channel *channel = channel_open(servers, policies[p]);
		struct outcome outcome = {0};
		uint64_t before;

		CHECK_EQ(call_number(channel, &number), 0);
		before = atomic_load(&allocations);
		for (unsigned i = 0; i < 200; i++) {
			CHECK_EQ(call_number(channel, &number), 0);
			CHECK_EQ(start_sleep(channel, 0, 0, &outcome, NULL), 0);
		}
		poll_until(channel, &outcome.times, 200);
		CHECK_EQ(atomic_load(&allocations), before);
		fm_rpc_close(channel);
	}
	processes_end();
#endif
}
