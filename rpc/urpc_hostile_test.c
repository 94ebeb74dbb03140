/*
 * rpc/urpc_hostile_test.c: urpc among datagrams of people who mean no good: forged, replayed,
 * contradictory, endless.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "rpc/urpc_client.h"
#include "rpc/urpc_pair_test.h"
#include "rpc/urpc_shm.h"
#include "rpc/urpc_wire.h"

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(port)};
}

static int socket_to(uint16_t port)
{
	struct sockaddr_in address = loopback(port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(fd >= 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static uint16_t client_port(const struct urpc_client *client)
{
	return client->links[0]->port;
}

/* A client of two servers: the kernel lets everybody's datagrams through to it. */
static void open_to_all(struct urpc_client *client)
{
	uint32_t peer;

	CHECK_EQ(urpc_client_add(client, "127.0.0.1:9", &peer), 0);
}

/* --- a flood at both ends --- */

struct flood {
	uint16_t server, client;
	_Atomic bool stop;
	/* datagrams it may have sent: some for each honest call, so that a slow server (a
	 * sanitizer's, say) is not simply buried */
	_Atomic uint64_t allowed;
	uint64_t sent;
};
#define FLOOD_PER_CALL 200u

/* Random bytes, often with a head that is nearly right. */
static size_t flood_fill(uint8_t bytes[2000], uint64_t *state)
{
	uint64_t dice = test_random(state);
	size_t length = dice % 3 == 0 ? test_random(state) % 2000 : test_random(state) % 80;
	struct urpc_request_head head = {.head = {.magic = URPC_MAGIC,
						 .version = URPC_VERSION,
						 .kind = (uint8_t)(test_random(state) % 4),
						 .id = 1 + test_random(state) % 100,
						 .unit = URPC_UNIT_MIN},
		.method = (uint32_t)(test_random(state) % 10),
		.remaining_us = (uint32_t)test_random(state)};

	for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
		uint64_t word = test_random(state);

		memcpy(bytes + i, &word, FM_MIN(sizeof(word), length - i));
	}
	if (dice % 4 == 0 || length < sizeof(head))
		return length;
	/* a piece of a larger message, or a whole one */
	head.head.total_bytes = (uint32_t)(length - sizeof(head));
	if (dice & 1 << 10) {
		length = sizeof(head) + URPC_UNIT_MIN;
		head.head.total_bytes = (uint32_t)(test_random(state) % URPC_MESSAGE_BYTES_MAX);
		head.head.piece = (uint16_t)(test_random(state) % 8);
	}
	memcpy(bytes, &head, sizeof(head));
	return length;
}

static void *flood_run(void *argument)
{
	struct flood *flood = argument;
	int fds[2] = {socket_to(flood->server), socket_to(flood->client)};
	uint64_t state = 3;
	uint8_t bytes[2000];

	while (!atomic_load(&flood->stop)) {
		size_t length = flood_fill(bytes, &state);

		if (flood->sent >= atomic_load(&flood->allowed)) {
			clock_pause(CLOCK_NEVER_NS);
			continue;
		}
		if (send(fds[test_random(&state) % 2], bytes, length, 0) >= 0)
			flood->sent++;
	}
	close(fds[0]);
	close(fds[1]);
	return NULL;
}

/* Has it been felt at both ends, in all its forms? */
static bool flood_is_felt(const struct pair *pair)
{
	struct urpc_client_stats client_stats;
	struct urpc_server_stats server_stats;

	urpc_client_stats(pair->client, &client_stats);
	urpc_server_stats(pair->server, &server_stats);
	return client_stats.malformed != 0 && server_stats.malformed != 0 &&
	       server_stats.fragments_dropped != 0;
}

TEST(honest_calls_go_on_through_a_flood_at_both_ends)
{
	enum { CALLS = 300 };
	static uint8_t request[5000], reply[5000];
	static struct flood flood;
	struct pair pair;
	pthread_t thread;
	uint64_t state = 9;

	pair_open(&pair, "127.0.0.1:0", NULL);
	open_to_all(pair.client);
	flood.server = urpc_server_port(pair.server);
	flood.client = client_port(pair.client);
	CHECK_EQ(pthread_create(&thread, NULL, flood_run, &flood), 0);
	for (unsigned i = 0; i < CALLS || (i < 100 * CALLS && !flood_is_felt(&pair)); i++) {
		size_t length = i % 5 == 0 ? sizeof(request) : i % 500;
		struct urpc_completion done;

		for (size_t j = 0; j < length; j++)
			request[j] = (uint8_t)test_random(&state);
		atomic_fetch_add(&flood.allowed, FLOOD_PER_CALL);
		do /* the flood fills queues: that is said, and one may try again */
			done = call(&pair, (struct urpc_request){.method = ECHO,
						   .bytes = request,
						   .length = length,
						   .reply = reply,
						   .reply_capacity = sizeof(reply),
						   .resend_ns = 20 * NS_PER_MS,
						   .deadline_ns = clock_now_ns() + 20 * NS_PER_S});
		while (done.status == -EBUSY);
		CHECK_EQ(done.status, 0);
		CHECK_EQ(done.reply_bytes, length);
		CHECK_EQ(memcmp(request, reply, length), 0);
	}
	atomic_store(&flood.stop, true);
	pthread_join(thread, NULL);
	CHECK(flood_is_felt(&pair));
	pair_close(&pair);
}

/* --- a server that lies --- */

struct liar {
	int fd;
	struct urpc_client *client;
	uint32_t peer;
	struct sockaddr_in from; /* whom the request came from */
	struct urpc_request_head request;
	uint8_t reply[4096];
	uint64_t id;
};

/* A client with one request in flight at a socket of ours. */
static void liar_open_until(struct liar *liar, size_t capacity, uint64_t deadline_ns)
{
	struct sockaddr_in address = loopback(0);
	struct timeval timeout = {.tv_sec = 5};
	socklen_t length = sizeof(address);
	struct urpc_client_options options = {0};
	char text[32];

	*liar = (struct liar){.fd = socket(AF_INET, SOCK_DGRAM, 0)};
	CHECK_EQ(bind(liar->fd, (struct sockaddr *)&address, length), 0);
	CHECK_EQ(getsockname(liar->fd, (struct sockaddr *)&address, &length), 0);
	CHECK_EQ(setsockopt(liar->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(address.sin_port));
	CHECK_EQ(urpc_client_open(&options, &liar->client), 0);
	CHECK_EQ(urpc_client_add(liar->client, text, &liar->peer), 0);
	open_to_all(liar->client);
	CHECK_EQ(urpc_client_send(liar->client,
			 &(struct urpc_request){.peer = liar->peer,
				 .reply = liar->reply,
				 .reply_capacity = capacity,
				 .deadline_ns = deadline_ns},
			 &liar->id),
		0);
	length = sizeof(liar->from);
	CHECK_EQ(recvfrom(liar->fd, &liar->request, sizeof(liar->request), 0,
			 (struct sockaddr *)&liar->from, &length),
		sizeof(liar->request));
	CHECK_EQ(liar->request.head.id, liar->id);
}

static void liar_open(struct liar *liar, size_t capacity)
{
	liar_open_until(liar, capacity, clock_now_ns() + 20 * NS_PER_S);
}

static struct urpc_reply_head liar_head(const struct liar *liar, uint32_t total, uint16_t unit)
{
	return (struct urpc_reply_head){.head = {.magic = URPC_MAGIC,
						.version = URPC_VERSION,
						.kind = URPC_REPLY,
						.id = liar->id,
						.total_bytes = total,
						.unit = unit},
		.epoch = 1};
}

static void liar_send(
	const struct liar *liar, int fd, const struct urpc_reply_head *head, uint8_t fill)
{
	uint8_t bytes[URPC_DATAGRAM_BYTES_MAX];
	size_t length =
		urpc_wire_piece_bytes(head->head.total_bytes, head->head.unit, head->head.piece);

	memcpy(bytes, head, sizeof(*head));
	memset(bytes + sizeof(*head), fill, length);
	CHECK_EQ(sendto(fd, bytes, sizeof(*head) + length, 0, (const struct sockaddr *)&liar->from,
			 sizeof(liar->from)),
		sizeof(*head) + length);
}

/* Nothing may come of what was sent. */
static void liar_expect_nothing(struct liar *liar, uint64_t strays, uint64_t malformed)
{
	uint64_t end_ns = clock_now_ns() + 5 * NS_PER_S;
	struct urpc_completion completion;
	struct urpc_client_stats stats;

	do {
		CHECK_EQ(urpc_client_poll(liar->client, &completion, 1), 0);
		urpc_client_stats(liar->client, &stats);
	} while (clock_now_ns() < end_ns && stats.strays + stats.malformed < strays + malformed);
	CHECK_EQ(stats.strays, strays);
	CHECK_EQ(stats.malformed, malformed);
}

static void liar_close(struct liar *liar)
{
	urpc_client_close(liar->client);
	close(liar->fd);
}

TEST(an_answer_with_the_right_id_from_another_address_is_a_stray)
{
	struct liar liar;
	struct urpc_reply_head head;
	int other = socket(AF_INET, SOCK_DGRAM, 0);

	liar_open(&liar, 8);
	head = liar_head(&liar, 8, URPC_UNIT_UDP);
	liar_send(&liar, other, &head, 0xee);
	liar_expect_nothing(&liar, 1, 0);
	CHECK_EQ(liar.reply[0], 0);
	liar_send(&liar, liar.fd, &head, 0x11);
	CHECK_EQ(wait_one(liar.client).status, 0);
	CHECK_EQ(liar.reply[7], 0x11);
	close(other);
	liar_close(&liar);
}

TEST(an_answer_with_another_id_or_a_replayed_one_is_a_stray)
{
	struct liar liar;
	struct urpc_reply_head head;

	liar_open(&liar, 8);
	head = liar_head(&liar, 8, URPC_UNIT_UDP);
	head.head.id++;
	liar_send(&liar, liar.fd, &head, 1);
	liar_expect_nothing(&liar, 1, 0);
	head.head.id--;
	liar_send(&liar, liar.fd, &head, 2);
	CHECK_EQ(wait_one(liar.client).status, 0);
	liar.reply[0] = 0;
	liar_send(&liar, liar.fd, &head, 3);
	liar_expect_nothing(&liar, 2, 0);
	CHECK_EQ(liar.reply[0], 0);
	liar_close(&liar);
}

TEST(an_answer_larger_than_the_buffer_is_an_error_and_the_buffer_stays_whole)
{
	struct liar liar;
	struct urpc_reply_head head;

	liar_open(&liar, 100);
	head = liar_head(&liar, 3000, URPC_UNIT_UDP);
	head.head.piece = 1;
	liar_send(&liar, liar.fd, &head, 0xee);
	CHECK_EQ(wait_one(liar.client).status, -EMSGSIZE);
	for (size_t i = 0; i < sizeof(liar.reply); i++)
		CHECK_EQ(liar.reply[i], 0);
	liar_close(&liar);
}

TEST(pieces_that_contradict_each_other_are_not_mixed)
{
	struct liar liar;
	struct urpc_reply_head head;

	liar_open(&liar, sizeof(liar.reply));
	head = liar_head(&liar, 1500, 1000);
	liar_send(&liar, liar.fd, &head, 1);
	head = liar_head(&liar, 1600, 1000); /* another length */
	head.head.piece = 1;
	liar_send(&liar, liar.fd, &head, 2);
	liar_expect_nothing(&liar, 0, 1);
	head = liar_head(&liar, 1500, 1000); /* another attempt: all of it comes from there */
	head.head.attempt = 1;
	head.head.piece = 1;
	liar_send(&liar, liar.fd, &head, 3);
	head.head.attempt = 0; /* the rest of the first comes too late */
	liar_send(&liar, liar.fd, &head, 4);
	liar_expect_nothing(&liar, 1, 1);
	head.head.attempt = 1;
	head.head.piece = 0;
	liar_send(&liar, liar.fd, &head, 3);
	CHECK_EQ(wait_one(liar.client).status, 0);
	for (unsigned i = 0; i < 1500; i++)
		CHECK_EQ(liar.reply[i], 3);
	liar_close(&liar);
}

TEST(an_answer_slower_than_the_deadline_is_a_timeout_and_then_a_stray)
{
	struct liar liar;
	struct urpc_reply_head head;
	struct urpc_completion done;
	struct urpc_client_stats stats;
	uint64_t begin_ns = clock_now_ns();

	liar_open_until(&liar, 8, begin_ns + 50 * NS_PER_MS);
	done = wait_one(liar.client);
	CHECK_EQ(done.status, -ETIMEDOUT);
	CHECK_LE(50 * NS_PER_MS, done.done_ns - begin_ns);
	head = liar_head(&liar, 8, URPC_UNIT_UDP);
	liar_send(&liar, liar.fd, &head, 0xee);
	liar_expect_nothing(&liar, 1, 0);
	CHECK_EQ(liar.reply[0], 0);
	urpc_client_stats(liar.client, &stats);
	CHECK_EQ(stats.timeouts, 1);
	liar_close(&liar);
}

/* --- shared memory --- */

struct ring_hand {
	int socket, wake_fd;
	struct urpc_rings *rings;
};

/* Joins a server in shared memory as a client does. */
static void ring_hand_join(struct ring_hand *hand, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct urpc_shm_hello hello;
	FM_ALIGNED(16) uint8_t control[CMSG_SPACE(URPC_SHM_FDS * sizeof(int))];
	struct iovec iov = {&hello, sizeof(hello)};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	int fds[URPC_SHM_FDS];

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	hand->socket = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK_EQ(connect(hand->socket, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQ(recvmsg(hand->socket, &message, 0), sizeof(hello));
	CHECK(CMSG_FIRSTHDR(&message) != NULL);
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fds));
	hand->rings =
		mmap(NULL, sizeof(*hand->rings), PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	CHECK(hand->rings != MAP_FAILED);
	CHECK_NE(ftruncate(fds[0], 4096), 0); /* sealed: nobody pulls the floor away */
	hand->wake_fd = fds[1];
	close(fds[0]);
	close(fds[2]);
}

static void ring_hand_close(struct ring_hand *hand)
{
	munmap(hand->rings, sizeof(*hand->rings));
	close(hand->wake_fd);
	close(hand->socket);
}

TEST(a_client_that_breaks_the_rules_of_the_ring_loses_its_connection_and_nobody_else_anything)
{
	struct ring_hand hand;
	struct pair pair;
	char address[64], byte;
	uint64_t one = 1;

	snprintf(address, sizeof(address), "shm:/tmp/urpc_hostile.%d", getpid());
	pair_open(&pair, address, NULL);
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	for (unsigned i = 0; i < 2 * URPC_SHM_CONNECTIONS_MAX; i++) { /* places are given back */
		ring_hand_join(&hand, address + strlen("shm:"));
		if (i % 2)
			memset(hand.rings->to_server.bytes, 0xee, URPC_RING_BYTES);
		atomic_store(&hand.rings->to_server.tail, i % 2 ? 4096 : 1ull << 40);
		CHECK_EQ(write(hand.wake_fd, &one, sizeof(one)), sizeof(one));
		CHECK_EQ(recv(hand.socket, &byte, 1, 0), 0);
		ring_hand_close(&hand);
	}
	CHECK_EQ(call(&pair, (struct urpc_request){.method = ECHO}).status, 0);
	pair_close(&pair);
}

/* --- datagrams of others --- */

static size_t answer_backwards(void *context, const void *bytes, size_t length, void *answer)
{
	(void)context;
	for (size_t i = 0; i < length; i++)
		((uint8_t *)answer)[i] = ((const uint8_t *)bytes)[length - 1 - i];
	return length;
}

struct foreigner {
	unsigned count;
	uint32_t peer;
	char bytes[16];
	size_t length;
};

static void take_foreign(void *context, uint32_t peer, const void *bytes, size_t length)
{
	struct foreigner *foreigner = context;

	foreigner->count++;
	foreigner->peer = peer;
	foreigner->length = length;
	memcpy(foreigner->bytes, bytes, FM_MIN(length, sizeof(foreigner->bytes)));
}

TEST(a_probe_goes_through_the_same_sockets_and_its_answer_is_handed_on)
{
	struct foreigner foreigner = {0};
	struct urpc_client_options options = {.foreign = take_foreign, .context = &foreigner};
	struct urpc_server_options server_options = {.foreign = answer_backwards};
	struct urpc_completion completion;
	struct urpc_client *client;
	struct pair pair;
	uint32_t peer;
	int stranger;

	pair_open(&pair, "127.0.0.1:0", &server_options);
	CHECK_EQ(urpc_client_open(&options, &client), 0);
	CHECK_EQ(urpc_client_add(client, "127.0.0.1:9", &peer), 0);
	CHECK_EQ(urpc_client_add(client, pair.address, &peer), 0);
	CHECK_EQ(urpc_client_send_foreign(client, peer, "probe!", 6), 0);
	stranger = socket_to(client_port(client));
	CHECK_EQ(send(stranger, "nobody", 6, 0), 6); /* no peer of ours: not handed on */
	while (foreigner.count == 0 || client->stats.strays == 0)
		CHECK_EQ(urpc_client_poll(client, &completion, 1), 0);
	CHECK_EQ(foreigner.count, 1);
	CHECK_EQ(foreigner.peer, peer);
	CHECK_EQ(foreigner.length, 6);
	CHECK_EQ(memcmp(foreigner.bytes, "!eborp", 6), 0);
	close(stranger);
	urpc_client_close(client);
	pair_close(&pair);
}
