/*
 * rpc/urpc_server_test.c: what a urpc server does when things pile up, repeat, expire or end.
 *
 * Most cases send datagrams by hand, so that they can say what no well-behaved client says.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "rpc/urpc_pair_test.h"
#include "rpc/urpc_wire.h"

/* --- a client by hand --- */

struct hand {
	int fd;
};

static void hand_open(struct hand *hand, uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(port)};
	struct timeval timeout = {.tv_sec = 2};

	hand->fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(hand->fd >= 0);
	CHECK_EQ(setsockopt(hand->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	CHECK_EQ(connect(hand->fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

static struct urpc_request_head hand_head(uint64_t id, uint32_t method, size_t length)
{
	return (struct urpc_request_head){.head = {.magic = URPC_MAGIC,
						  .version = URPC_VERSION,
						  .kind = URPC_REQUEST,
						  .id = id,
						  .total_bytes = (uint32_t)length,
						  .unit = URPC_UNIT_UDP},
		.method = method,
		.remaining_us = 2000000};
}

static void hand_send(const struct hand *hand, const struct urpc_request_head *head,
	const void *bytes, size_t length)
{
	uint8_t datagram[URPC_DATAGRAM_BYTES_MAX];

	memcpy(datagram, head, sizeof(*head));
	if (length != 0)
		memcpy(datagram + sizeof(*head), bytes, length);
	CHECK_EQ(send(hand->fd, datagram, sizeof(*head) + length, 0), sizeof(*head) + length);
}

/* False: nothing came for so long. */
static bool hand_receive(const struct hand *hand, uint64_t wait_ms, struct urpc_reply_head *reply,
	void *bytes, size_t size)
{
	uint8_t datagram[URPC_DATAGRAM_BYTES_MAX];
	struct timeval timeout = {.tv_sec = (time_t)(wait_ms / 1000),
		.tv_usec = (suseconds_t)(wait_ms % 1000 * 1000)};
	ssize_t n;

	CHECK_EQ(setsockopt(hand->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	n = recv(hand->fd, datagram, sizeof(datagram), 0);
	if (n < 0)
		return false;
	CHECK_LE(sizeof(*reply), n);
	memcpy(reply, datagram, sizeof(*reply));
	CHECK_EQ(reply->head.kind, URPC_REPLY);
	if (bytes != NULL)
		memcpy(bytes, datagram + sizeof(*reply), FM_MIN(size, (size_t)n - sizeof(*reply)));
	return true;
}

static void hand_close(struct hand *hand)
{
	close(hand->fd);
}

static struct urpc_server_stats stats_of(const struct pair *pair)
{
	struct urpc_server_stats stats;

	urpc_server_stats(pair->server, &stats);
	return stats;
}

/* --- at most once --- */

TEST(a_repeated_once_request_runs_once_and_gets_the_kept_answer)
{
	struct pair pair;
	struct hand hand;
	struct urpc_request_head head = hand_head(77, COUNT_ONCE, 0);
	struct urpc_reply_head reply;
	unsigned first = 0, second = 0, before = atomic_load(&runs_count);

	pair_open(&pair, "127.0.0.1:0", NULL);
	hand_open(&hand, urpc_server_port(pair.server));
	hand_send(&hand, &head, NULL, 0);
	CHECK(hand_receive(&hand, 2000, &reply, &first, sizeof(first)));
	head.head.attempt = 1;
	hand_send(&hand, &head, NULL, 0);
	CHECK(hand_receive(&hand, 2000, &reply, &second, sizeof(second)));
	CHECK_EQ(reply.status, 0);
	CHECK_EQ(reply.head.attempt, 1);
	CHECK_EQ(first, second);
	CHECK_EQ(atomic_load(&runs_count), before + 1);
	CHECK_EQ(stats_of(&pair).duplicates, 1);
	hand_close(&hand);
	pair_close(&pair);
}

TEST(a_repeated_ordinary_request_runs_twice)
{
	struct pair pair;
	struct hand hand;
	struct urpc_request_head head = hand_head(78, COUNT, 0);
	struct urpc_reply_head reply;
	unsigned before = atomic_load(&runs_count);

	pair_open(&pair, "127.0.0.1:0", NULL);
	hand_open(&hand, urpc_server_port(pair.server));
	for (int i = 0; i < 2; i++) {
		hand_send(&hand, &head, NULL, 0);
		CHECK(hand_receive(&hand, 2000, &reply, NULL, 0));
	}
	CHECK_EQ(atomic_load(&runs_count), before + 2);
	hand_close(&hand);
	pair_close(&pair);
}

TEST(the_same_id_from_another_sender_is_another_request)
{
	struct pair pair;
	struct hand one, other;
	struct urpc_request_head head = hand_head(79, COUNT_ONCE, 0);
	struct urpc_reply_head reply;
	unsigned before = atomic_load(&runs_count);

	pair_open(&pair, "127.0.0.1:0", NULL);
	hand_open(&one, urpc_server_port(pair.server));
	hand_open(&other, urpc_server_port(pair.server));
	hand_send(&one, &head, NULL, 0);
	CHECK(hand_receive(&one, 2000, &reply, NULL, 0));
	hand_send(&other, &head, NULL, 0);
	CHECK(hand_receive(&other, 2000, &reply, NULL, 0));
	CHECK_EQ(atomic_load(&runs_count), before + 2);
	hand_close(&one);
	hand_close(&other);
	pair_close(&pair);
}

TEST(a_once_request_that_may_have_run_before_the_restart_is_refused_as_stale)
{
	struct pair pair;
	struct hand hand;
	struct urpc_request_head head = hand_head(80, COUNT_ONCE, 0);
	struct urpc_reply_head reply;
	unsigned before = atomic_load(&runs_count);

	pair_open(&pair, "127.0.0.1:0", NULL);
	hand_open(&hand, urpc_server_port(pair.server));
	head.head.attempt = 1;
	head.age_us = 3600u * 1000000u; /* first sent an hour ago: to somebody else */
	hand_send(&hand, &head, NULL, 0);
	CHECK(hand_receive(&hand, 2000, &reply, NULL, 0));
	CHECK_EQ(reply.status, -ESTALE);
	CHECK_EQ(atomic_load(&runs_count), before);
	hand_close(&hand);
	pair_close(&pair);
}

TEST(a_client_that_repeats_gets_one_answer_and_the_handler_runs_once)
{
	struct pair pair;
	unsigned before = atomic_load(&runs_count), reply = 0;
	struct urpc_completion done;
	uint64_t us = 500000;
	uint64_t id;
	struct urpc_client_stats stats;

	pair_open(&pair, "127.0.0.1:0", NULL);
	/* the server is kept busy, so that the next request is repeated many times */
	CHECK_EQ(urpc_client_send(pair.client,
			 &(struct urpc_request){.peer = pair.peer,
				 .method = SPIN_DEAF,
				 .bytes = &us,
				 .length = sizeof(us),
				 .deadline_ns = clock_now_ns() + 5 * NS_PER_S},
			 &id),
		0);
	CHECK_EQ(urpc_client_send(pair.client,
			 &(struct urpc_request){.peer = pair.peer,
				 .method = COUNT_ONCE,
				 .reply = &reply,
				 .reply_capacity = sizeof(reply),
				 .resend_ns = NS_PER_MS,
				 .deadline_ns = clock_now_ns() + 5 * NS_PER_S,
				 .tag = 1},
			 &id),
		0);
	CHECK_EQ(wait_one(pair.client).tag, 0);
	done = wait_one(pair.client);
	CHECK_EQ(done.tag, 1);
	CHECK_EQ(done.status, 0);
	CHECK_EQ(reply, before + 1);
	CHECK_EQ(urpc_client_wait(pair.client, clock_now_ns() + 50 * NS_PER_MS), -ETIMEDOUT);
	CHECK_EQ(atomic_load(&runs_count), before + 1);
	urpc_client_stats(pair.client, &stats);
	CHECK_LE(2, stats.resends);
	pair_close(&pair);
}

/* --- overload, deadlines, cancellation, draining --- */

static void send_spin(struct pair *pair, uint32_t method, const uint64_t *us, uint64_t *id)
{
	CHECK_EQ(urpc_client_send(pair->client,
			 &(struct urpc_request){.peer = pair->peer,
				 .method = method,
				 .bytes = us,
				 .length = sizeof(*us),
				 .deadline_ns = clock_now_ns() + 5 * NS_PER_S},
			 id),
		0);
}

static void overload(unsigned workers)
{
	enum { REQUESTS = 200 };
	struct urpc_server_options options = {
		.workers = workers, .queue_max = 4, .quantum_ns = CLOCK_NEVER_NS};
	struct pair pair;
	uint64_t us = 1000, id;
	unsigned done = 0, refused = 0;

	pair_open(&pair, "127.0.0.1:0", &options);
	for (unsigned i = 0; i < REQUESTS; i++)
		send_spin(&pair, SPIN, &us, &id);
	for (unsigned i = 0; i < REQUESTS; i++) {
		struct urpc_completion completion = wait_one(pair.client);

		CHECK(completion.has_load);
		if (completion.status == 0) {
			done++;
			continue;
		}
		CHECK_EQ(completion.status, -EBUSY);
		CHECK(completion.refused_early);
		refused++;
	}
	CHECK_LE(4, done);
	CHECK_LE(1, refused);
	CHECK_EQ(stats_of(&pair).overloads, refused);
	pair_close(&pair);
}

TEST(a_full_queue_answers_overload_at_once)
{
	overload(1);
}

TEST(a_full_queue_of_several_workers_answers_overload_at_once)
{
	overload(2);
}

TEST(a_request_that_expired_while_it_waited_is_not_run)
{
	enum { TRIES = 50 };
	struct pair pair;
	struct hand hand;
	struct urpc_request_head head = hand_head(81, COUNT, 0);
	struct urpc_reply_head reply;
	uint64_t us = 20000, id;
	unsigned answered = 0, sent = 0, before = atomic_load(&runs_count);

	pair_open(&pair, "127.0.0.1:0", NULL);
	hand_open(&hand, urpc_server_port(pair.server));
	head.remaining_us = 1000;
	/* on a busy machine the first may be over before the second is even sent */
	while (sent == answered && sent < TRIES) {
		send_spin(&pair, SPIN_DEAF, &us, &id);
		head.head.id++;
		hand_send(&hand, &head, NULL, 0);
		sent++;
		CHECK_EQ(wait_one(pair.client).status, 0);
		answered += hand_receive(&hand, 100, &reply, NULL, 0);
	}
	CHECK_EQ(answered, sent - 1);
	CHECK_EQ(atomic_load(&runs_count), before + answered);
	CHECK_EQ(stats_of(&pair).expired, 1);
	hand_close(&hand);
	pair_close(&pair);
}

TEST(a_cancelled_request_ends_at_once_and_is_not_run_if_it_still_waits)
{
	struct pair pair;
	uint64_t us = 500000, first, second;
	struct urpc_completion done;

	pair_open(&pair, "127.0.0.1:0", NULL);
	send_spin(&pair, SPIN_DEAF, &us, &first);
	send_spin(&pair, SPIN_DEAF, &us, &second);
	CHECK_EQ(urpc_client_cancel(pair.client, second), 0);
	CHECK_EQ(urpc_client_cancel(pair.client, second), -ENOENT);
	CHECK_EQ(urpc_client_cancel(pair.client, second + 1000), -ENOENT);
	done = wait_one(pair.client);
	CHECK_EQ(done.id, second);
	CHECK_EQ(done.status, -ECANCELED);
	done = wait_one(pair.client);
	CHECK_EQ(done.id, first);
	CHECK_EQ(done.status, 0);
	/* a round trip later the server has been through both */
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	CHECK_EQ(stats_of(&pair).cancelled, 1);
	pair_close(&pair);
}

TEST(a_draining_server_refuses_and_says_so_in_its_load)
{
	struct pair pair;
	struct urpc_completion done;
	struct load load;

	pair_open(&pair, "127.0.0.1:0", NULL);
	urpc_server_drain(pair.server);
	done = call(&pair, (struct urpc_request){.method = ECHO});
	CHECK_EQ(done.status, -EBUSY);
	CHECK(done.refused_early);
	CHECK_EQ(done.load.flags & LOAD_DRAINING, LOAD_DRAINING);
	CHECK(load_read(urpc_server_slot(pair.server), clock_now_ns(), &load));
	CHECK_EQ(load.flags, LOAD_DRAINING);
	pair_close(&pair);
}

TEST(a_server_that_closes_answers_what_it_has_taken)
{
	struct pair pair;
	uint64_t us = 20000, ids[3];

	pair_open(&pair, "127.0.0.1:0", NULL);
	for (int i = 0; i < 3; i++)
		send_spin(&pair, SPIN, &us, &ids[i]);
	while (stats_of(&pair).requests < 3)
		clock_pause(CLOCK_NEVER_NS);
	urpc_server_close(pair.server);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(wait_one(pair.client).status, 0);
	urpc_client_close(pair.client);
}

TEST(a_restarted_server_is_noticed_by_its_epoch)
{
	struct pair pair;
	struct urpc_server_options options = {
		.methods = methods, .methods_count = FM_ARRAY_COUNT(methods)};
	uint32_t before;

	pair_open(&pair, "127.0.0.1:0", NULL);
	before = call(&pair, (struct urpc_request){.method = ECHO}).load.epoch;
	urpc_server_close(pair.server);
	options.listen = pair.address;
	CHECK_EQ(urpc_server_open(&options, &pair.server), 0);
	CHECK_EQ(urpc_server_start(pair.server), 0);
	CHECK_NE(call(&pair, (struct urpc_request){.method = ECHO}).load.epoch, before);
	pair_close(&pair);
}

/* --- load --- */

TEST(an_idle_server_refreshes_its_slot_and_says_that_it_is_idle)
{
	struct pair pair;
	struct load load;
	uint64_t end_ns;

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	end_ns = clock_now_ns() + 4 * LOAD_STALE_NS;
	while (clock_now_ns() < end_ns)
		clock_pause(end_ns);
	end_ns += 10 * NS_PER_S; /* a busy machine may not let the server run for a while */
	while (!load_read(urpc_server_slot(pair.server), clock_now_ns(), &load))
		CHECK_LE(clock_now_ns(), end_ns);
	CHECK_EQ(load.in_flight, 0);
	CHECK_EQ(load.delay_ns, 0);
	pair_close(&pair);
}

TEST(requests_that_wait_show_in_the_slot_as_old_as_they_are)
{
	struct urpc_server_options options = {.quantum_ns = CLOCK_NEVER_NS, .apart = true};
	struct pair pair;
	struct load load;
	uint64_t us = 300000, id, begin_ns;

	pair_open(&pair, "127.0.0.1:0", &options);
	begin_ns = clock_now_ns();
	for (int i = 0; i < 3; i++)
		send_spin(&pair, SPIN, &us, &id);
	CHECK_EQ(wait_one(pair.client).status, 0);
	CHECK_EQ(wait_one(pair.client).status, 0);
	/* the third has begun, after as long as the two took */
	while ((!load_read(urpc_server_slot(pair.server), clock_now_ns(), &load) ||
		       load.delay_ns < 550 * NS_PER_MS || load.in_flight != 1) &&
		clock_now_ns() < begin_ns + 5 * NS_PER_S)
		clock_pause(CLOCK_NEVER_NS);
	CHECK_LE(550 * NS_PER_MS, load.delay_ns);
	CHECK_EQ(load.in_flight, 1);
	CHECK_EQ(wait_one(pair.client).status, 0);
	pair_close(&pair);
}

/* --- long and short --- */

/* A long request first, short ones behind it. How many short ones end before it. */
static unsigned short_ones_that_pass(const struct urpc_server_options *options)
{
	enum { SHORT = 20 };
	struct pair pair;
	uint64_t long_us = 500000, short_us = 1, id, long_id;
	unsigned passed = 0;

	pair_open(&pair, "127.0.0.1:0", options);
	send_spin(&pair, SPIN, &long_us, &long_id);
	for (unsigned i = 0; i < SHORT; i++)
		send_spin(&pair, SPIN, &short_us, &id);
	while (wait_one(pair.client).id != long_id)
		passed++;
	for (unsigned i = passed; i < SHORT; i++)
		CHECK_EQ(wait_one(pair.client).status, 0);
	if (passed != 0)
		CHECK_LE(1, stats_of(&pair).preemptions);
	pair_close(&pair);
	return passed;
}

TEST(short_requests_pass_a_long_one_that_has_poll_points)
{
	CHECK_EQ(short_ones_that_pass(NULL), 20);
}

TEST(short_requests_pass_a_long_one_on_a_worker_of_its_own)
{
	CHECK_EQ(short_ones_that_pass(&(struct urpc_server_options){.apart = true}), 20);
}

TEST(without_a_quantum_they_wait)
{
	CHECK_EQ(short_ones_that_pass(&(struct urpc_server_options){.quantum_ns = CLOCK_NEVER_NS}),
		0);
}

static void many_long_ones(const struct urpc_server_options *options)
{
	enum { LONG = 100 };
	struct pair pair;
	uint64_t us = 200, id;

	pair_open(&pair, "127.0.0.1:0", options);
	for (unsigned i = 0; i < LONG; i++)
		send_spin(&pair, SPIN, &us, &id);
	for (unsigned i = 0; i < LONG; i++)
		CHECK_EQ(wait_one(pair.client).status, 0);
	pair_close(&pair);
}

TEST(more_long_requests_than_stacks_all_end)
{
	many_long_ones(&(struct urpc_server_options){.queue_max = 256});
}

TEST(more_long_requests_than_stacks_all_end_on_two_workers)
{
	many_long_ones(&(struct urpc_server_options){.queue_max = 256, .workers = 2});
}

TEST(several_workers_answer_everything_with_its_own_answer)
{
	enum { ROUNDS = 100, DEPTH = 40 };
	struct urpc_server_options options = {.workers = 3};
	struct pair pair;
	uint64_t sent[DEPTH], got[DEPTH], id;

	pair_open(&pair, "127.0.0.1:0", &options);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < DEPTH; i++) {
			sent[i] = round * DEPTH + i;
			got[i] = UINT64_MAX;
			CHECK_EQ(urpc_client_send(pair.client,
					 &(struct urpc_request){.peer = pair.peer,
						 .method = ECHO,
						 .bytes = &sent[i],
						 .length = sizeof(sent[i]),
						 .reply = &got[i],
						 .reply_capacity = sizeof(got[i]),
						 .deadline_ns = clock_now_ns() + 10 * NS_PER_S,
						 .tag = i},
					 &id),
				0);
		}
		for (unsigned i = 0; i < DEPTH; i++)
			CHECK_EQ(wait_one(pair.client).status, 0);
		CHECK_EQ(memcmp(sent, got, sizeof(sent)), 0);
	}
	pair_close(&pair);
}

/* --- waking --- */

static void *wake_it(void *client)
{
	urpc_client_wake(client);
	return NULL;
}

TEST(another_thread_wakes_a_client_that_sleeps)
{
	struct pair pair;
	uint64_t begin_ns = clock_now_ns();

	pair_open(&pair, "127.0.0.1:0", NULL);
	for (int i = 0; i < 20; i++) {
		pthread_t thread;

		CHECK_EQ(pthread_create(&thread, NULL, wake_it, pair.client), 0);
		CHECK_EQ(urpc_client_wait(pair.client, clock_now_ns() + 20 * NS_PER_S), 0);
		pthread_join(thread, NULL);
	}
	CHECK_LE(clock_now_ns() - begin_ns, 10 * NS_PER_S);
	pair_close(&pair);
}
