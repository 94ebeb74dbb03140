/*
 * rpc/urpc_stress_test.c: several clients at once do everything there is to do, in an order drawn
 * from a seed; afterwards nothing may be left over in the server.
 *
 * Checked: every request has exactly one completion; echoes are right, whatever was resent; a
 * once-method ran at most once per request; and at the end no request is in flight and every piece
 * of the server's memory for requests is back in its pool.
 */
#include <pthread.h>

#include "rpc/urpc_pair_test.h"
#include "rpc/urpc_serve.h"

#define CLIENTS 3u
#define REQUESTS 600u
#define DEPTH 12u
#define LENGTH_MAX 6000u

struct flight {
	uint64_t id, number;
	uint32_t method;
	size_t length;
	bool used;
	uint8_t request[LENGTH_MAX], reply[LENGTH_MAX];
};

struct actor {
	pthread_t thread;
	const char *address;
	uint64_t state;
	unsigned completions;
	struct flight flights[DEPTH];
};

/* For each (client, number): how often ONCE ran. */
static _Atomic uint8_t once_runs[CLIENTS][REQUESTS];
static struct actor actors[CLIENTS];

enum { STRESS_ECHO = 1, STRESS_ONCE, STRESS_LONG };

static int stress_once(struct urpc_call *call)
{
	uint32_t who[2];

	if (call->request_bytes < sizeof(who))
		return -EINVAL;
	memcpy(who, call->request, sizeof(who));
	if (who[0] >= CLIENTS || who[1] >= REQUESTS)
		return -EINVAL;
	atomic_fetch_add(&once_runs[who[0]][who[1]], 1);
	return handle_echo(call);
}

static int stress_long(struct urpc_call *call)
{
	uint64_t end_ns = clock_now_ns() + 50 * NS_PER_US;

	while (clock_now_ns() < end_ns)
		urpc_poll_point();
	return handle_echo(call);
}

static const struct urpc_method stress_methods[] = {{STRESS_ECHO, 0, handle_echo},
	{STRESS_ONCE, URPC_ONCE, stress_once}, {STRESS_LONG, 0, stress_long}};

static void actor_send(
	struct actor *actor, struct urpc_client *client, unsigned place, uint32_t number)
{
	struct flight *flight = &actor->flights[place];
	uint32_t who[2] = {(uint32_t)(actor - actors), number};
	uint64_t dice = test_random(&actor->state);
	int r;

	flight->method = 1 + (uint32_t)(dice % 3);
	flight->length = sizeof(who) + (dice % 4 == 0 ? (dice >> 8) % (LENGTH_MAX - sizeof(who))
						      : (dice >> 8) % 100);
	flight->number = number;
	memset(flight->request, (int)dice, flight->length);
	memcpy(flight->request, who, sizeof(who));
	do
		r = urpc_client_send(client,
			&(struct urpc_request){.peer = 0,
				.method = flight->method,
				.bytes = flight->request,
				.length = flight->length,
				.reply = flight->reply,
				.reply_capacity = LENGTH_MAX,
				.deadline_ns = clock_now_ns() +
					       (dice % 16 == 1 ? 100 * NS_PER_US : 5 * NS_PER_S),
				.resend_ns = dice % 2 ? 200 * NS_PER_US : 20 * NS_PER_MS,
				.tag = place},
			&flight->id);
	while (r == -ENOBUFS); /* the server's queue is full: as it should be, at times */
	CHECK_EQ(r, 0);
	flight->used = true;
	if (dice % 32 == 2)
		CHECK_EQ(urpc_client_cancel(client, flight->id), 0);
}

static void actor_take(struct actor *actor, const struct urpc_completion *done)
{
	struct flight *flight = &actor->flights[done->tag];

	CHECK(flight->used);
	CHECK_EQ(done->id, flight->id);
	flight->used = false;
	actor->completions++;
	switch (done->status) {
	case 0:
		CHECK_EQ(done->reply_bytes, flight->length);
		CHECK_EQ(memcmp(flight->request, flight->reply, flight->length), 0);
		if (flight->method == STRESS_ONCE)
			CHECK_EQ(atomic_load(&once_runs[actor - actors][flight->number]), 1);
		break;
	case -EBUSY:
	case -ETIMEDOUT:
	case -ECANCELED:
		break;
	default:
		CHECK_EQ(done->status, 0);
	}
}

static void *actor_run(void *argument)
{
	struct actor *actor = argument;
	struct urpc_client_options options = {.requests_max = DEPTH};
	struct urpc_completion completions[4];
	struct urpc_client *client;
	uint32_t peer, sent = 0;

	CHECK_EQ(urpc_client_open(&options, &client), 0);
	CHECK_EQ(urpc_client_add(client, actor->address, &peer), 0);
	while (actor->completions < REQUESTS) {
		for (unsigned place = 0; place < DEPTH && sent < REQUESTS; place++)
			if (!actor->flights[place].used)
				actor_send(actor, client, place, sent++);
		CHECK_EQ(urpc_client_wait(client, clock_now_ns() + 20 * NS_PER_S), 0);
		unsigned n = urpc_client_poll(client, completions, 4);
		for (unsigned i = 0; i < n; i++)
			actor_take(actor, &completions[i]);
	}
	urpc_client_close(client);
	return NULL;
}

/* Nothing in flight, everything back in the pool. */
static void check_nothing_left(struct urpc_server *server)
{
	uint64_t end_ns = clock_now_ns() + 10 * NS_PER_S;
	unsigned pooled = 0;
	uint32_t in_flight;

	do {
		urpc_server_lock(server);
		in_flight = server->in_flight;
		pooled = 0;
		for (const struct urpc_work *work = server->pool; work != NULL; work = work->next)
			pooled++;
		urpc_server_unlock(server);
	} while ((in_flight != 0 || pooled + URPC_BATCH_MAX != server->works_count) &&
		 clock_now_ns() < end_ns);
	CHECK_EQ(in_flight, 0);
	CHECK_EQ(pooled + URPC_BATCH_MAX, server->works_count);
}

static void stress(const char *listen, unsigned workers)
{
	struct urpc_server_options options = {.listen = listen,
		.methods = stress_methods,
		.methods_count = FM_ARRAY_COUNT(stress_methods),
		.workers = workers,
		.apart = true, /* so that the lock is real and the end can be looked at */
		.queue_max = 16};
	struct urpc_server *server;
	char address[64];

	memset((void *)once_runs, 0, sizeof(once_runs));
	CHECK_EQ(urpc_server_open(&options, &server), 0);
	CHECK_EQ(urpc_server_start(server), 0);
	snprintf(address, sizeof(address), "%s", listen);
	if (urpc_server_port(server) != 0)
		snprintf(address, sizeof(address), "127.0.0.1:%u", urpc_server_port(server));
	for (unsigned i = 0; i < CLIENTS; i++) {
		memset(&actors[i], 0, sizeof(actors[i]));
		actors[i].address = address;
		actors[i].state = i + 1;
		CHECK_EQ(pthread_create(&actors[i].thread, NULL, actor_run, &actors[i]), 0);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		pthread_join(actors[i].thread, NULL);
	for (unsigned i = 0; i < CLIENTS; i++)
		for (unsigned j = 0; j < REQUESTS; j++)
			CHECK_LE(atomic_load(&once_runs[i][j]), 1);
	check_nothing_left(server);
	urpc_server_close(server);
}

static const char *in_tmp(const char *prefix)
{
	static char text[64];

	snprintf(text, sizeof(text), "%s/tmp/urpc_stress.%d", prefix, getpid());
	return text;
}

TEST(everything_at_once_over_udp)
{
	stress("127.0.0.1:0", 2);
}

TEST(everything_at_once_over_udp_with_one_worker)
{
	stress("127.0.0.1:0", 1);
}

TEST(everything_at_once_over_unix_datagrams)
{
	stress(in_tmp("unix:"), 2);
}

TEST(everything_at_once_over_shared_memory)
{
	stress(in_tmp("shm:"), 2);
}
