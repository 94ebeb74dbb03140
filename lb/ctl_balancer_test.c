/*
 * lb/ctl_balancer_test.c: the balancer over gRPC against real servers: calls are shared, the load
 * in the replies and in probes' answers is heeded, a server that dies is left out.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/test.h"
#include "lb/ctl_balancer.h"
#include "lb/probe.h"
#include "rpc/ctl_server.h"

#define SERVERS 3

struct served {
	struct ctl_server *server;
	struct probe_server *probe;
	char address[64], probe_address[64];
	_Atomic unsigned calls;
	_Atomic bool says_busy;
};
static struct served served[SERVERS];
static const char *addresses[SERVERS], *probes[SERVERS];

static bool say_load(void *context, struct orca_report *report)
{
	const struct served *self = context;
	bool busy = atomic_load(&self->says_busy);

	*report = (struct orca_report){
		.load = {.epoch = 1, .delay_ns = busy ? 50000000 : 0, .in_flight = busy ? 200 : 0}};
	return true;
}

static int handle(void *context, const uint8_t *request, size_t bytes, struct ctl_reply *reply)
{
	struct served *self = context;

	(void)request;
	(void)bytes;
	atomic_fetch_add(&self->calls, 1);
	return ctl_reply_space(reply, 0) != NULL ? 0 : -ENOMEM;
}

static void serve_one(struct served *self, const char *address)
{
	static const struct ctl_method methods[] = {{"/test/Any", handle}};
	struct ctl_server_options options = {.methods = methods,
		.methods_count = 1,
		.threads = 2,
		.context = self,
		.load = say_load};
	int port;

	CHECK_EQ(ctl_server_open(&options, &self->server), 0);
	CHECK_EQ(ctl_server_listen(self->server, address, &port), 0);
	CHECK_EQ(ctl_server_start(self->server), 0);
	snprintf(self->address, sizeof(self->address), "127.0.0.1:%d", port);
}

static void serve(void)
{
	for (unsigned i = 0; i < SERVERS; i++) {
		served[i] = (struct served){0};
		serve_one(&served[i], "127.0.0.1:0");
		addresses[i] = served[i].address;
	}
}

static void unserve(void)
{
	for (unsigned i = 0; i < SERVERS; i++)
		ctl_server_close(served[i].server);
}

static struct ctl_balancer *balancer(const char *policy, bool probing)
{
	struct ctl_balancer_options options = {.addresses = addresses,
		.count = SERVERS,
		.probes = probing ? probes : NULL,
		.policy = policy,
		.seed = 5,
		.retries = 2};
	struct ctl_balancer *b;

	CHECK_EQ(ctl_balancer_open(&options, &b), 0);
	return b;
}

static int call(struct ctl_balancer *b, uint32_t *server)
{
	struct ctl_request request = {
		.method = "/test/Any", .bytes = "x", .length = 1, .timeout_ns = 5 * NS_PER_S};
	struct ctl_result result;
	int rc = ctl_balancer_call(b, &request, &result, server);

	ctl_result_clear(&result);
	return rc;
}

TEST(calls_are_answered_with_every_policy_and_shared)
{
	static const char *const policies[] = {
		"random", "rr", "least", "mew", "prequal", "p2c", "jbsq", "c3"};

	serve();
	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		struct ctl_balancer *b = balancer(policies[p], false);
		uint32_t server;

		for (unsigned i = 0; i < SERVERS; i++)
			atomic_store(&served[i].calls, 0);
		for (unsigned i = 0; i < 60; i++) {
			unsigned before = 0;

			CHECK_EQ(call(b, &server), 0);
			CHECK(server < SERVERS);
			before = atomic_load(&served[server].calls);
			CHECK_LT(0, before);
		}
		/* One call at a time: those that know of an idle server may stay there. */
		for (unsigned i = 0; i < SERVERS && p < 3; i++) {
			unsigned calls = atomic_load(&served[i].calls);

			CHECK_LT(5, calls);
		}
		ctl_balancer_close(b);
	}
	unserve();
}

TEST(what_replies_say_of_the_load_is_heeded)
{
	struct ctl_balancer_options options = {.addresses = addresses,
		.count = SERVERS,
		.policy = "mew-fixed",
		.sample_age_ns = 5 * NS_PER_S,
		.seed = 5};
	struct balancer_stats stats;
	unsigned calls;
	struct ctl_balancer *b;
	uint32_t server;

	serve();
	CHECK_EQ(ctl_balancer_open(&options, &b), 0);
	atomic_store(&served[1].says_busy, true);
	for (unsigned i = 0; i < 90; i++)
		CHECK_EQ(call(b, &server), 0);
	ctl_balancer_stats(b, &stats);
	CHECK_EQ(stats.piggybacks, 90);
	calls = atomic_load(&served[1].calls);
	CHECK_LT(calls, 20); /* 30 would be its share */
	ctl_balancer_close(b);
	unserve();
}

TEST(a_server_that_ends_is_left_out_and_found_again)
{
	struct ctl_balancer *b;
	char address[64];
	uint32_t server = 0;
	uint64_t end_ns;

	serve();
	b = balancer("least", false);
	for (unsigned i = 0; i < 10; i++)
		CHECK_EQ(call(b, &server), 0);
	ctl_server_close(served[2].server);
	memcpy(address, served[2].address, sizeof(address));
	for (unsigned i = 0; i < 50; i++) { /* each falls on another one if need be */
		int rc = call(b, &server);

		CHECK(rc == 0 || rc == -ECONNRESET); /* the connection broke under it */
		CHECK(rc != 0 || server != 2);
	}
	serve_one(&served[2], address);
	end_ns = clock_now_ns() + 20 * NS_PER_S;
	for (server = 0; server != 2 && clock_now_ns() < end_ns;)
		(void)call(b, &server);
	CHECK_EQ(server, 2);
	ctl_balancer_close(b);
	unserve();
}

TEST(with_nobody_there_a_call_says_so_soon)
{
	struct ctl_balancer *b;
	uint64_t begin_ns = clock_now_ns();

	serve();
	unserve();
	b = balancer("mew", false);
	for (unsigned i = 0; i < 30; i++) {
		int rc = call(b, NULL);

		CHECK(rc == -ECONNREFUSED || rc == -ECONNRESET || rc == -EHOSTUNREACH);
	}
	CHECK_LT(clock_now_ns() - begin_ns, 10 * NS_PER_S);
	ctl_balancer_close(b);
}

/* --- probes -------------------------------------------------------------------------------------
 */

struct answerer {
	int fd;
	_Atomic bool stop;
	_Atomic unsigned answered;
	struct load_slot slot;
	pthread_t thread;
	char address[64];
};

static void *answer(void *argument)
{
	struct answerer *self = argument;
	struct pollfd fd = {.fd = self->fd, .events = POLLIN};

	while (!atomic_load(&self->stop)) {
		uint8_t bytes[64], reply[64];
		struct sockaddr_in from;
		socklen_t from_bytes = sizeof(from);
		ssize_t got;
		size_t length;

		if (poll(&fd, 1, 10) <= 0)
			continue;
		got = recvfrom(
			self->fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &from_bytes);
		length = got > 0 ? probe_answer(
					   &self->slot, clock_now_ns(), bytes, (size_t)got, reply)
				 : 0;
		if (length > 0 && sendto(self->fd, reply, length, 0, (struct sockaddr *)&from,
					  from_bytes) > 0)
			atomic_fetch_add(&self->answered, 1);
	}
	return NULL;
}

static struct answerer answerers[SERVERS];

static void publish(struct answerer *self, uint32_t delay_ns, uint16_t in_flight)
{
	load_publish(&self->slot, &(struct load_report){.stamp_ns = clock_now_ns() + NS_PER_S,
					  .delay_ns = delay_ns,
					  .in_flight = in_flight});
}

static void answerers_open(void)
{
	for (unsigned i = 0; i < SERVERS; i++) {
		struct answerer *self = &answerers[i];
		struct sockaddr_in address = {
			.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t bytes = sizeof(address);

		*self = (struct answerer){.slot = {.epoch = 9}};
		self->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		CHECK_EQ(bind(self->fd, (struct sockaddr *)&address, bytes), 0);
		CHECK_EQ(getsockname(self->fd, (struct sockaddr *)&address, &bytes), 0);
		snprintf(self->address, sizeof(self->address), "localhost:%d",
			ntohs(address.sin_port));
		probes[i] = self->address;
		publish(self, 0, 0);
		CHECK_EQ(pthread_create(&self->thread, NULL, answer, self), 0);
	}
}

static void answerers_close(void)
{
	for (unsigned i = 0; i < SERVERS; i++) {
		atomic_store(&answerers[i].stop, true);
		pthread_join(answerers[i].thread, NULL);
		close(answerers[i].fd);
	}
}

TEST(probes_over_udp_tell_the_load_beside_the_calls)
{
	struct balancer_stats stats;
	struct ctl_balancer *b;
	uint32_t server;

	serve();
	answerers_open();
	b = balancer("prequal", true);
	for (unsigned i = 0; i < 60; i++)
		CHECK_EQ(call(b, &server), 0);
	ctl_balancer_stats(b, &stats);
	CHECK_LE(120, stats.probes);
	CHECK_LE(60, stats.samples);
	ctl_balancer_close(b);
	answerers_close();
	unserve();
}

TEST(a_policy_that_asks_first_goes_where_the_answers_say)
{
	struct balancer_stats stats;
	unsigned calls;
	struct ctl_balancer *b;
	uint32_t server;

	serve();
	answerers_open();
	for (unsigned i = 0; i < SERVERS; i++) {
		publish(&answerers[i], i == 0 ? 0 : 80000000, i == 0 ? 0 : 500);
		atomic_store(&served[i].says_busy, i != 0); /* replies say the same */
	}
	b = balancer("p2c", true);
	for (unsigned i = 0; i < 60; i++)
		CHECK_EQ(call(b, &server), 0);
	ctl_balancer_stats(b, &stats);
	CHECK_EQ(stats.asks, 60);
	calls = atomic_load(&served[0].calls);
	CHECK_LT(28, calls); /* two of three pairs hold it; late answers */
	ctl_balancer_close(b);
	answerers_close();
	unserve();
}

struct ended {
	unsigned count, failed;
};

static void note(void *context, const struct ctl_result *result)
{
	struct ended *ended = context;

	ended->count++;
	ended->failed += result->status != 0;
}

TEST(started_calls_end_in_their_queue)
{
	struct ctl_request request = {
		.method = "/test/Any", .bytes = "x", .length = 1, .timeout_ns = 5 * NS_PER_S};
	struct ctl_balancer *b;
	struct ctl_queue *queue;
	struct ended ended = {0};

	serve();
	b = balancer("least", false);
	CHECK_EQ(ctl_queue_open(&queue), 0);
	for (unsigned i = 0; i < 30; i++)
		CHECK_EQ(ctl_balancer_start(b, queue, &request, note, &ended), 0);
	while (ended.count < 30) {
		struct pollfd fd = {.fd = ctl_queue_fd(queue), .events = POLLIN};

		CHECK_EQ(poll(&fd, 1, 5000), 1);
		ctl_queue_dispatch(queue);
	}
	CHECK_EQ(ended.failed, 0);
	for (unsigned i = 0; i < SERVERS; i++) {
		unsigned calls = atomic_load(&served[i].calls);

		CHECK_EQ(calls, 10);
	}
	/* One whose result nobody waits for. */
	CHECK_EQ(ctl_balancer_start(b, queue, &request, note, &ended), 0);
	ctl_queue_close(queue);
	CHECK_EQ(ended.count, 30);
	ctl_balancer_close(b);
	unserve();
}

TEST(mistakes_in_the_options_are_refused)
{
	static const char *const bad_probes[] = {"nowhere", NULL, NULL};
	struct ctl_balancer_options options = {.addresses = addresses, .count = SERVERS};
	struct ctl_balancer *b;

	for (unsigned i = 0; i < SERVERS; i++)
		addresses[i] = "127.0.0.1:1";
	options.count = 0;
	CHECK_EQ(ctl_balancer_open(&options, &b), -EINVAL);
	options.count = SERVERS;
	options.policy = "best";
	CHECK_EQ(ctl_balancer_open(&options, &b), -EINVAL);
	options.policy = "mew";
	options.probes = bad_probes;
	CHECK_EQ(ctl_balancer_open(&options, &b), -EINVAL);
	CHECK(b == NULL);
}
