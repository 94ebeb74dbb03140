/*
 * rpc/urpc_pair_test.h: a server and a client of urpc for tests: methods, calls, waiting. Included
 * by urpc_test.c, urpc_server_test.c and urpc_hostile_test.c, after base/test.h.
 */
#ifndef FM_RPC_URPC_PAIR_TEST_H
#define FM_RPC_URPC_PAIR_TEST_H

#include <errno.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/test.h"
#include "rpc/urpc.h"

enum { ECHO = 1, COUNT, COUNT_ONCE, SPIN, SPIN_DEAF, FAIL, TOO_LONG };

#define SPIN_US_MAX 1000000u

static _Atomic unsigned runs_count;

static int handle_echo(struct urpc_call *call)
{
	memcpy(call->reply, call->request, call->request_bytes);
	call->reply_bytes = call->request_bytes;
	return 0;
}

static int handle_count(struct urpc_call *call)
{
	unsigned n = atomic_fetch_add(&runs_count, 1) + 1;

	memcpy(call->reply, &n, sizeof(n));
	call->reply_bytes = sizeof(n);
	return 0;
}

/* Works for as many microseconds as the request says. */
static int handle_spin(struct urpc_call *call)
{
	uint64_t us, end_ns;

	if (call->request_bytes != sizeof(us))
		return -EINVAL;
	memcpy(&us, call->request, sizeof(us));
	if (us > SPIN_US_MAX)
		return -EINVAL;
	end_ns = clock_now_ns() + us * NS_PER_US;
	while (clock_now_ns() < end_ns)
		urpc_poll_point();
	return 0;
}

/* The same without poll points. */
static int handle_spin_deaf(struct urpc_call *call)
{
	uint64_t us, end_ns;

	if (call->request_bytes != sizeof(us))
		return -EINVAL;
	memcpy(&us, call->request, sizeof(us));
	if (us > SPIN_US_MAX)
		return -EINVAL;
	end_ns = clock_now_ns() + us * NS_PER_US;
	while (clock_now_ns() < end_ns)
		continue;
	return 0;
}

static int handle_fail(struct urpc_call *call)
{
	(void)call;
	return -EPERM;
}

static int handle_too_long(struct urpc_call *call)
{
	call->reply_bytes = call->reply_capacity + 1;
	return 0;
}

static const struct urpc_method methods[] = {
	{ECHO, 0, handle_echo},
	{COUNT, 0, handle_count},
	{COUNT_ONCE, URPC_ONCE, handle_count},
	{SPIN, 0, handle_spin},
	{SPIN_DEAF, 0, handle_spin_deaf},
	{FAIL, 0, handle_fail},
	{TOO_LONG, 0, handle_too_long},
};

struct pair {
	struct urpc_server *server;
	struct urpc_client *client;
	uint32_t peer;
	char address[64];
};

static inline void pair_open(
	struct pair *pair, const char *listen, const struct urpc_server_options *extra)
{
	struct urpc_server_options options = extra ? *extra : (struct urpc_server_options){0};
	struct urpc_client_options client_options = {0};

	options.listen = listen;
	options.methods = methods;
	options.methods_count = FM_ARRAY_COUNT(methods);
	CHECK_EQ(urpc_server_open(&options, &pair->server), 0);
	CHECK_EQ(urpc_server_start(pair->server), 0);
	snprintf(pair->address, sizeof(pair->address), "%s", listen);
	if (urpc_server_port(pair->server) != 0)
		snprintf(pair->address, sizeof(pair->address), "127.0.0.1:%u",
			urpc_server_port(pair->server));
	CHECK_EQ(urpc_client_open(&client_options, &pair->client), 0);
	CHECK_EQ(urpc_client_add(pair->client, pair->address, &pair->peer), 0);
}

static inline void pair_close(struct pair *pair)
{
	urpc_client_close(pair->client);
	urpc_server_close(pair->server);
}

static inline struct urpc_completion wait_one(struct urpc_client *client)
{
	struct urpc_completion completion;
	uint64_t until_ns = clock_now_ns() + 20 * NS_PER_S;

	while (urpc_client_poll(client, &completion, 1) == 0)
		CHECK_EQ(urpc_client_wait(client, until_ns), 0);
	return completion;
}

/* Again while the peer has no room, or a server in shared memory has not greeted yet. */
static inline void send_patiently(
	struct urpc_client *client, const struct urpc_request *request, uint64_t *id)
{
	uint64_t until_ns = clock_now_ns() + 20 * NS_PER_S;
	int r;

	do
		r = urpc_client_send(client, request, id);
	while (r == -ENOBUFS && clock_now_ns() < until_ns);
	CHECK_EQ(r, 0);
}

static inline struct urpc_completion call(struct pair *pair, struct urpc_request request)
{
	uint64_t id = 0;
	struct urpc_completion completion;

	request.peer = pair->peer;
	if (request.deadline_ns == 0)
		request.deadline_ns = clock_now_ns() + 10 * NS_PER_S;
	send_patiently(pair->client, &request, &id);
	completion = wait_one(pair->client);
	CHECK_EQ(completion.id, id);
	CHECK_EQ(completion.peer, pair->peer);
	return completion;
}

#endif
