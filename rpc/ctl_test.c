/*
 * rpc/ctl_test.c: the control plane's server and client against each other, over unix and TCP, and
 * against peers that do not behave.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/test.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_server.h"

static sem_t blocked, unblock;

static int handle_echo(void *context, const uint8_t *request, size_t bytes, struct ctl_reply *reply)
{
	(void)context;
	uint8_t *space = ctl_reply_space(reply, bytes);
	if (space == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i++)
		space[i] = request[bytes - 1 - i];
	return 0;
}

static int handle_refuse(
	void *context, const uint8_t *request, size_t bytes, struct ctl_reply *reply)
{
	(void)context;
	(void)bytes;
	return ctl_reply_error(reply, -(int)request[0], "refused with %d", request[0]);
}

static int handle_block(
	void *context, const uint8_t *request, size_t bytes, struct ctl_reply *reply)
{
	sem_post(&blocked);
	sem_wait(&unblock);
	return handle_echo(context, request, bytes, reply);
}

static const struct ctl_method methods[] = {
	{"/test/Echo", handle_echo},
	{"/test/Refuse", handle_refuse},
	{"/test/Block", handle_block},
};

static int server_port;
static char server_path[64], server_unix[80], server_tcp[80];

static struct ctl_server *server_open(void)
{
	static const struct ctl_server_options options = {
		.methods = methods, .methods_count = 3, .threads = 4, .message_bytes_max = 65536};
	struct ctl_server *server;
	sem_init(&blocked, 0, 0);
	sem_init(&unblock, 0, 0);
	snprintf(server_path, sizeof server_path, "/tmp/farmem-ctl-test-%d", (int)getpid());
	snprintf(server_unix, sizeof server_unix, "unix:%s", server_path);
	CHECK_EQ(ctl_server_open(&options, &server), 0);
	CHECK_EQ(ctl_server_listen(server, server_unix, NULL), 0);
	CHECK_EQ(ctl_server_listen(server, "127.0.0.1:0", &server_port), 0);
	snprintf(server_tcp, sizeof server_tcp, "127.0.0.1:%d", server_port);
	CHECK_EQ(ctl_server_start(server), 0);
	return server;
}

static struct ctl_client *client_open(const char *address)
{
	struct ctl_client *client;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	return client;
}

static int call(struct ctl_client *client, const char *method, const void *bytes, size_t length,
	struct ctl_result *result)
{
	struct ctl_request request = {method, bytes, length, 5 * NS_PER_S};
	return ctl_client_call(client, &request, result);
}

static void check_echo(struct ctl_client *client)
{
	struct ctl_result result;
	CHECK_EQ(call(client, "/test/Echo", "abc", 3, &result), 0);
	CHECK_EQ(result.length, 3);
	CHECK(memcmp(result.bytes, "cba", 3) == 0);
	ctl_result_clear(&result);
}

TEST(an_answer_comes_back_over_unix_and_over_tcp)
{
	struct ctl_server *server = server_open();
	struct ctl_client *near = client_open(server_unix);
	struct ctl_client *far = client_open(server_tcp);
	check_echo(near);
	check_echo(far);
	struct ctl_result result;
	CHECK_EQ(call(far, "/test/Echo", "", 0, &result), 0);
	CHECK_EQ(result.length, 0);
	ctl_result_clear(&result);
	ctl_client_close(near);
	ctl_client_close(far);
	ctl_server_close(server);
}

TEST(a_proxy_variable_does_not_catch_calls_to_this_machine)
{
	setenv("http_proxy", "http://127.0.0.1:9", 1);
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_tcp);
	check_echo(client);
	ctl_client_close(client);
	ctl_server_close(server);
	unsetenv("http_proxy");
}

TEST(an_unknown_method_is_answered_unimplemented_each_time)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_tcp);
	for (unsigned i = 0; i < 2 * CTL_CALLS_MAX; i++) {
		struct ctl_result result;
		CHECK_EQ(call(client, i % 2 ? "/test/Nothing" : "/other/Echo", "x", 1, &result),
			-ENOSYS);
		ctl_result_clear(&result);
	}
	check_echo(client);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_refusal_carries_its_errno_and_its_text)
{
	static const int errors[] = {EINVAL, ENOMEM, EACCES, ENOENT};
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_unix);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(errors); i++) {
		uint8_t number = (uint8_t)errors[i];
		char text[32];
		struct ctl_result result;
		CHECK_EQ(call(client, "/test/Refuse", &number, 1, &result), -errors[i]);
		snprintf(text, sizeof text, "refused with %d", errors[i]);
		CHECK_STR_EQ(result.text, text);
		ctl_result_clear(&result);
	}
	/* -EAGAIN is "busy": to the client the same as out of reach. */
	struct ctl_result result;
	CHECK_EQ(call(client, "/test/Refuse", (uint8_t[]){EAGAIN}, 1, &result), -ECONNRESET);
	CHECK_EQ(call(client, "/test/Refuse", (uint8_t[]){EXDEV}, 1, &result), -EIO);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_message_above_the_limit_is_refused_and_one_at_the_limit_is_not)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_tcp);
	uint8_t *large = calloc(1, 65537);
	struct ctl_result result;
	CHECK_EQ(call(client, "/test/Echo", large, 65536, &result), 0);
	CHECK_EQ(result.length, 65536);
	ctl_result_clear(&result);
	CHECK_EQ(call(client, "/test/Echo", large, 65537, &result), -ENOMEM);
	ctl_result_clear(&result);
	check_echo(client);
	free(large);
	ctl_client_close(client);
	ctl_server_close(server);
}

static int raw_connect(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)server_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	return fd;
}

TEST(garbage_on_the_port_harms_nobody_else)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_tcp);
	uint64_t seed = 7;
	for (unsigned i = 0; i < 50; i++) {
		/* Some say the HTTP/2 preface first, so that the garbage reaches the frame
		 * parser. */
		uint8_t junk[600] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
		for (size_t at = i % 2 ? 24 : 0; at < sizeof junk; at++)
			junk[at] = (uint8_t)test_random(&seed);
		int fd = raw_connect();
		(void)!send(fd, junk, i % 3 ? sizeof junk : 30, MSG_NOSIGNAL);
		close(fd);
		if (i % 10 == 0)
			check_echo(client);
	}
	check_echo(client);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_handler_that_blocks_holds_up_only_its_own_thread)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_unix);
	struct ctl_request request = {"/test/Block", "z", 1, 100 * NS_PER_MS};
	struct ctl_result result;
	uint64_t before_ns = clock_now_ns();
	CHECK_EQ(ctl_client_call(client, &request, &result), -ETIMEDOUT);
	CHECK(clock_now_ns() - before_ns >= 95 * NS_PER_MS);
	ctl_result_clear(&result);
	sem_wait(&blocked);
	check_echo(client);
	sem_post(&unblock);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_server_that_is_gone_is_told_at_once_and_found_again_when_it_returns)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_unix);
	check_echo(client);
	ctl_server_close(server);
	struct ctl_result result;
	uint64_t before_ns = clock_now_ns();
	int error = call(client, "/test/Echo", "x", 1, &result); /* the old connection, perhaps */
	CHECK(error == -ECONNRESET || error == -ECONNREFUSED);
	uint64_t until_ns = before_ns + 5 * NS_PER_S;
	while ((error = call(client, "/test/Echo", "x", 1, &result)) == -ECONNRESET &&
		clock_now_ns() < until_ns)
		clock_pause(until_ns);
	CHECK_EQ(error, -ECONNREFUSED);
	CHECK(clock_now_ns() - before_ns < NS_PER_S);
	server = server_open();
	until_ns = clock_now_ns() + 10 * NS_PER_S;
	do {
		error = call(client, "/test/Echo", "x", 1, &result);
		ctl_result_clear(&result);
		clock_pause(until_ns);
	} while (error != 0 && clock_now_ns() < until_ns);
	CHECK_EQ(error, 0);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_port_where_nobody_listens_is_told_apart_from_a_broken_wire)
{
	struct ctl_server *server = server_open();
	ctl_server_close(server); /* its port is free again */
	struct ctl_client *client = client_open(server_tcp);
	struct ctl_result result;
	CHECK_EQ(call(client, "/test/Echo", "x", 1, &result), -ECONNREFUSED);
	ctl_client_close(client);
	client = client_open("unix:/nonexistent/ctl.sock");
	CHECK_EQ(call(client, "/test/Echo", "x", 1, &result), -ECONNREFUSED);
	ctl_client_close(client);
}

TEST(a_server_that_listens_but_never_answers_costs_one_deadline)
{
	/* As a stopped process does: its kernel accepts, nobody reads. */
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof address;
	CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	CHECK_EQ(listen(fd, 8), 0);
	CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	char text[32];
	snprintf(text, sizeof text, "127.0.0.1:%d", ntohs(address.sin_port));
	struct ctl_client *client = client_open(text);
	struct ctl_request request = {"/test/Echo", "z", 1, 150 * NS_PER_MS};
	struct ctl_result result;
	uint64_t before_ns = clock_now_ns();
	CHECK_EQ(ctl_client_call(client, &request, &result), -ETIMEDOUT);
	uint64_t took_ns = clock_now_ns() - before_ns;
	CHECK(took_ns >= 145 * NS_PER_MS && took_ns < 5 * NS_PER_S);
	ctl_client_close(client);
	close(fd);
}

static unsigned done_count, done_wrong_count;

static void done(void *context, const struct ctl_result *result)
{
	unsigned expected = (unsigned)(uintptr_t)context;
	done_count++;
	if (expected == 0 ? result->status != -ENOSYS
			  : result->status != 0 || result->length != expected)
		done_wrong_count++;
}

TEST(background_calls_finish_on_the_dispatching_thread_each_once)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_unix);
	struct ctl_queue *queue;
	uint8_t bytes[100] = {0};
	CHECK_EQ(ctl_queue_open(&queue), 0);
	done_count = done_wrong_count = 0;
	for (unsigned i = 0; i < 100; i++) {
		struct ctl_request request = {
			i == 0 ? "/test/None" : "/test/Echo", bytes, i, 10 * NS_PER_S};
		CHECK_EQ(ctl_client_start(client, queue, &request, done, (void *)(uintptr_t)i), 0);
	}
	while (done_count < 100) {
		struct pollfd poller = {.fd = ctl_queue_fd(queue), .events = POLLIN};
		CHECK_EQ(poll(&poller, 1, 10000), 1);
		ctl_queue_dispatch(queue);
	}
	CHECK_EQ(done_count, 100);
	CHECK_EQ(done_wrong_count, 0);
	/* Closing with calls still running drops them without `done`. */
	struct ctl_request request = {"/test/Block", bytes, 1, 50 * NS_PER_MS};
	CHECK_EQ(ctl_client_start(client, queue, &request, done, NULL), 0);
	ctl_queue_close(queue);
	CHECK_EQ(done_count, 100);
	sem_post(&unblock);
	ctl_client_close(client);
	ctl_server_close(server);
}

static void *hammer(void *argument)
{
	for (unsigned i = 0; i < 100; i++)
		check_echo(argument);
	return NULL;
}

TEST(many_threads_may_share_one_client)
{
	struct ctl_server *server = server_open();
	struct ctl_client *client = client_open(server_tcp);
	pthread_t threads[8];
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, hammer, client), 0);
	for (unsigned i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(a_port_in_use_is_an_error)
{
	struct ctl_server *server = server_open();
	struct ctl_server_options options = {.methods = methods, .methods_count = 3, .threads = 1};
	struct ctl_server *second;
	CHECK_EQ(ctl_server_open(&options, &second), 0);
	CHECK_EQ(ctl_server_listen(second, server_tcp, NULL), -EADDRINUSE);
	CHECK_EQ(ctl_server_listen(second, "unix:/nonexistent/dir/x", NULL), -EADDRINUSE);
	ctl_server_close(second);
	struct ctl_client *client = client_open(server_tcp);
	check_echo(client);
	ctl_client_close(client);
	ctl_server_close(server);
}

TEST(nonsense_options_are_refused)
{
	struct ctl_server *server;
	struct ctl_server_options options = {.methods = methods, .methods_count = 0, .threads = 1};
	CHECK_EQ(ctl_server_open(&options, &server), -EINVAL);
	options.methods_count = CTL_METHODS_MAX + 1;
	CHECK_EQ(ctl_server_open(&options, &server), -EINVAL);
	options.methods_count = 1;
	options.threads = 0;
	CHECK_EQ(ctl_server_open(&options, &server), -EINVAL);
	struct ctl_client *client;
	CHECK_EQ(ctl_client_open("", &client), -EINVAL);
}
