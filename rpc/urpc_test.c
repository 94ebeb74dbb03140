/*
 * rpc/urpc_test.c: client and server of urpc together: what a caller may rely on.
 *
 * Every case runs on a real server in this process.
 */
#include "rpc/urpc_pair_test.h"

static const char *unix_address(void)
{
	static char text[64];

	snprintf(text, sizeof(text), "unix:/tmp/urpc_test.%d", getpid());
	return text;
}

static void echo_sizes(const char *listen)
{
	static const size_t sizes[] = {0, 1, 64, 1023, 1024, 1025, 1399, 1400, 1401, 2800, 2801,
		16384, 16385, 40000, 65535, 65536};
	static uint8_t request[URPC_MESSAGE_BYTES_MAX], reply[URPC_MESSAGE_BYTES_MAX];
	struct pair pair;
	uint64_t state = 1;

	for (size_t i = 0; i < sizeof(request); i++)
		request[i] = (uint8_t)test_random(&state);
	pair_open(&pair, listen, NULL);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(sizes); i++) {
		struct urpc_completion done;

		memset(reply, 0, sizeof(reply));
		done = call(&pair, (struct urpc_request){.method = ECHO,
					   .bytes = request,
					   .length = sizes[i],
					   .reply = reply,
					   .reply_capacity = sizeof(reply),
					   .tag = i});
		CHECK_EQ(done.status, 0);
		CHECK_EQ(done.tag, i);
		CHECK_EQ(done.reply_bytes, sizes[i]);
		CHECK_EQ(memcmp(request, reply, sizes[i]), 0);
		CHECK(done.has_load);
		CHECK_EQ(done.load.epoch, urpc_server_slot(pair.server)->epoch);
	}
	pair_close(&pair);
}

TEST(messages_of_every_size_come_back_over_udp)
{
	echo_sizes("127.0.0.1:0");
}

TEST(messages_of_every_size_come_back_over_unix_datagrams)
{
	echo_sizes(unix_address());
}

static const char *shm_address(void)
{
	static char text[64];

	snprintf(text, sizeof(text), "shm:/tmp/urpc_test_shm.%d", getpid());
	return text;
}

TEST(messages_of_every_size_come_back_over_shared_memory)
{
	echo_sizes(shm_address());
}

TEST(messages_of_every_size_come_back_over_udp_on_all_addresses)
{
	echo_sizes(":0");
}

TEST(a_message_above_the_limit_is_refused_before_it_is_sent)
{
	static uint8_t bytes[URPC_MESSAGE_BYTES_MAX + 1];
	struct urpc_request request = {.method = ECHO,
		.bytes = bytes,
		.length = sizeof(bytes),
		.deadline_ns = CLOCK_NEVER_NS};
	struct pair pair;
	uint64_t id;

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(urpc_client_send(pair.client, &request, &id), -EMSGSIZE);
	pair_close(&pair);
}

TEST(errors_of_the_handler_and_of_the_table_of_methods_come_back)
{
	struct pair pair;
	uint8_t reply[8];
	struct urpc_server_stats stats;

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = FAIL}).status, -EPERM);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = TOO_LONG}).status, -EMSGSIZE);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = 12345}).status, -ENOSYS);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO,
				     .bytes = "123456789",
				     .length = 9,
				     .reply = reply,
				     .reply_capacity = sizeof(reply)})
			 .status,
		-EMSGSIZE);
	urpc_server_stats(pair.server, &stats);
	CHECK_EQ(stats.unknown_methods, 1);
	CHECK_EQ(stats.requests, 4);
	pair_close(&pair);
}

TEST(a_request_to_a_port_where_nobody_listens_ends_with_a_refusal)
{
	struct urpc_client *client;
	struct urpc_client_options options = {0};
	struct urpc_request request = {
		.method = ECHO, .deadline_ns = clock_now_ns() + 10 * NS_PER_S};
	uint64_t id;
	struct pair pair;

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(urpc_client_open(&options, &client), 0);
	CHECK_EQ(urpc_client_add(client, pair.address, &request.peer), 0);
	pair_close(&pair); /* the port is free now */
	CHECK_EQ(urpc_client_send(client, &request, &id), 0);
	CHECK_EQ(wait_one(client).status, -ECONNREFUSED);
	urpc_client_close(client);
}

static void many_in_flight(const char *listen)
{
	enum { ROUNDS = 200, DEPTH = 50 };
	struct pair pair;
	uint64_t sent[DEPTH], got[DEPTH], id;
	struct urpc_completion completions[16];

	pair_open(&pair, listen, NULL);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		unsigned done = 0;

		for (unsigned i = 0; i < DEPTH; i++) {
			sent[i] = round * DEPTH + i;
			got[i] = UINT64_MAX;
			send_patiently(pair.client,
				&(struct urpc_request){.peer = pair.peer,
					.method = ECHO,
					.bytes = &sent[i],
					.length = sizeof(sent[i]),
					.reply = &got[i],
					.reply_capacity = sizeof(got[i]),
					.deadline_ns = clock_now_ns() + 5 * NS_PER_S,
					.tag = i},
				&id);
		}
		while (done < DEPTH) {
			unsigned n = urpc_client_poll(pair.client, completions, 16);

			for (unsigned i = 0; i < n; i++) {
				CHECK_EQ(completions[i].status, 0);
				CHECK_EQ(got[completions[i].tag], sent[completions[i].tag]);
			}
			done += n;
			if (n == 0)
				CHECK_EQ(urpc_client_wait(
						 pair.client, clock_now_ns() + 5 * NS_PER_S),
					0);
		}
	}
	pair_close(&pair);
}

TEST(many_requests_in_flight_all_come_back_each_with_its_own_answer)
{
	many_in_flight("127.0.0.1:0");
}

TEST(many_requests_in_flight_over_shared_memory_all_come_back)
{
	many_in_flight(shm_address());
}

/* The kernel queues ten unix datagrams, no more: the rest is repeated by us or by the server. */
TEST(many_requests_in_flight_over_unix_datagrams_all_come_back)
{
	enum { CALLS = 200 };
	struct urpc_server_options options = {.queue_max = CALLS};
	struct pair pair;
	uint64_t id;
	unsigned sent = 0, done = 0;
	struct urpc_completion completion;

	pair_open(&pair, unix_address(), &options);
	while (done < CALLS) {
		int r = sent == CALLS
				? -ENOBUFS
				: urpc_client_send(pair.client,
					  &(struct urpc_request){.peer = pair.peer,
						  .method = ECHO,
						  .deadline_ns = clock_now_ns() + 5 * NS_PER_S},
					  &id);

		CHECK(r == 0 || r == -ENOBUFS);
		sent += r == 0;
		if (r == 0)
			continue;
		while (urpc_client_poll(pair.client, &completion, 1) != 0) {
			CHECK_EQ(completion.status, 0);
			done++;
		}
	}
	pair_close(&pair);
}

TEST(servers_of_all_kinds_answer_one_client)
{
	const char *listen[] = {"127.0.0.1:0", "[::1]:0", unix_address(), shm_address()};
	struct urpc_server *servers[4];
	struct urpc_client_options client_options = {0};
	struct urpc_client *client;
	uint32_t peers[4];
	uint64_t id;

	CHECK_EQ(urpc_client_open(&client_options, &client), 0);
	for (unsigned i = 0; i < 4; i++) {
		struct urpc_server_options options = {.listen = listen[i],
			.methods = methods,
			.methods_count = FM_ARRAY_COUNT(methods)};
		char address[64];
		int r = urpc_server_open(&options, &servers[i]);

		if (i == 1 && r != 0)
			TEST_SKIP("this machine has no IPv6");
		CHECK_EQ(r, 0);
		CHECK_EQ(urpc_server_start(servers[i]), 0);
		snprintf(address, sizeof(address),
			i == 0   ? "127.0.0.1:%u"
			: i == 1 ? "[::1]:%u"
				 : "%u",
			urpc_server_port(servers[i]));
		CHECK_EQ(urpc_client_add(client, i < 2 ? address : listen[i], &peers[i]), 0);
	}
	for (unsigned round = 0; round < 50; round++)
		for (unsigned i = 0; i < 4; i++) {
			struct urpc_completion done;

			send_patiently(client,
				&(struct urpc_request){.peer = peers[i],
					.method = ECHO,
					.deadline_ns = clock_now_ns() + 10 * NS_PER_S},
				&id);
			done = wait_one(client);
			CHECK_EQ(done.id, id);
			CHECK_EQ(done.status, 0);
			CHECK_EQ(done.load.epoch, urpc_server_slot(servers[i])->epoch);
		}
	urpc_client_close(client);
	for (unsigned i = 0; i < 4; i++)
		urpc_server_close(servers[i]);
}

TEST(the_end_of_a_server_in_shared_memory_ends_what_was_in_flight_and_its_successor_serves)
{
	struct pair pair;
	struct urpc_server_options options = {.listen = shm_address(),
		.methods = methods,
		.methods_count = FM_ARRAY_COUNT(methods)};
	uint64_t us = 1000000, id;
	struct urpc_request request = {.method = SPIN,
		.bytes = &us,
		.length = sizeof(us),
		.deadline_ns = clock_now_ns() + 20 * NS_PER_S};

	pair_open(&pair, shm_address(), NULL);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	request.peer = pair.peer;
	urpc_server_close(pair.server);
	/* the client has not looked yet: this one still goes into the ring */
	if (urpc_client_send(pair.client, &request, &id) == 0)
		CHECK_EQ(wait_one(pair.client).status, -ECONNREFUSED);
	CHECK_EQ(urpc_client_send(pair.client, &request, &id), -ECONNREFUSED);
	CHECK_EQ(urpc_server_open(&options, &pair.server), 0);
	CHECK_EQ(urpc_server_start(pair.server), 0);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	pair_close(&pair);
}

TEST(a_client_keeps_its_port_and_its_requests_when_a_second_server_is_added)
{
	struct urpc_server_options options = {.listen = "127.0.0.1:0",
		.methods = methods,
		.methods_count = FM_ARRAY_COUNT(methods)};
	struct urpc_server *second;
	struct pair pair;
	uint64_t us = 20000, id;
	uint32_t first_peer;
	char address[32];
	struct urpc_request request = {.method = SPIN,
		.bytes = &us,
		.length = sizeof(us),
		.deadline_ns = clock_now_ns() + 10 * NS_PER_S};

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(urpc_server_open(&options, &second), 0);
	CHECK_EQ(urpc_server_start(second), 0);
	first_peer = request.peer = pair.peer;
	CHECK_EQ(urpc_client_send(pair.client, &request, &id), 0);
	snprintf(address, sizeof(address), "127.0.0.1:%u", urpc_server_port(second));
	CHECK_EQ(urpc_client_add(pair.client, address, &pair.peer), 0);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	CHECK_EQ(wait_one(pair.client).peer, first_peer);
	pair_close(&pair);
	urpc_server_close(second);
}

TEST(a_full_client_says_so_and_takes_more_after_a_completion)
{
	struct urpc_client *client;
	struct urpc_client_options options = {.requests_max = 2};
	struct urpc_request request = {
		.method = SPIN, .deadline_ns = clock_now_ns() + 5 * NS_PER_S};
	struct pair pair;
	uint64_t us = 1000, id;

	pair_open(&pair, "127.0.0.1:0", NULL);
	CHECK_EQ(urpc_client_open(&options, &client), 0);
	CHECK_EQ(urpc_client_add(client, pair.address, &request.peer), 0);
	request.bytes = &us;
	request.length = sizeof(us);
	CHECK_EQ(urpc_client_send(client, &request, &id), 0);
	CHECK_EQ(urpc_client_send(client, &request, &id), 0);
	CHECK_EQ(urpc_client_send(client, &request, &id), -EAGAIN);
	CHECK_EQ(wait_one(client).status, 0);
	CHECK_EQ(urpc_client_send(client, &request, &id), 0);
	urpc_client_close(client);
	pair_close(&pair);
}
