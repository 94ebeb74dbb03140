/*
 * memnode/data_server_test.c: the data server against peers that keep to nothing: raw sockets,
 * while a good client (the fabric) must not notice. What the fabric itself promises is in
 * rpc/fabric_test.c.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/log.h"
#include "memnode/data_server.h"
#include "rpc/wire.h"

#define REGION_BYTES (1u << 20)
#define CONNECTIONS_MAX 48

static struct lease_table *table;
static struct data_server *server;
static struct fabric_capability capability;
static struct fabric_queue *queue; /* the good client */
static struct fabric_region *region;
static char unix_path[64];
static _Atomic uint64_t skew_ns; /* lets time limits pass without waiting for them */

static uint64_t skewed_now(void *context)
{
	struct timespec ts;
	(void)context;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec + atomic_load(&skew_ns);
}

static void skewed_pause(void *context, uint64_t until_ns)
{
	(void)context;
	(void)until_ns;
	sched_yield();
}

static uint64_t in_s(double seconds)
{
	return clock_now_ns() + (uint64_t)(seconds * 1e9);
}

static void end(void)
{
	fabric_queue_close(queue);
	data_server_close(server);
	lease_table_close(table);
	queue = NULL;
	region = NULL;
	server = NULL;
	table = NULL;
}

static void begin(void)
{
	static const uint8_t client[16] = "test";
	static const struct clock_source source = {.now_ns = skewed_now, .pause = skewed_pause};
	struct lease_table_options lease_options = {.memory_bytes = 64u << 20};
	struct fabric_queue_options queue_options = {.depth = 16, .spin_ns = 10000};
	char endpoint[64];
	end(); /* of a case that failed */
	clock_set_source(&source);
	log_set_level(LOG_ERROR);
	snprintf(unix_path, sizeof(unix_path), "/tmp/data_server_test.%d.sock", getpid());
	CHECK_EQ(lease_table_open(&lease_options, &table), 0);
	struct data_server_options options = {.tcp_address = "127.0.0.1:0",
		.unix_path = unix_path,
		.leases = table,
		.threads = 2,
		.connections_max = CONNECTIONS_MAX};
	CHECK_EQ(data_server_open(&options, &server), 0);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &capability), 0);
	CHECK_EQ(fabric_queue_open(&queue_options, &queue), 0);
	snprintf(endpoint, sizeof(endpoint), "tcp:127.0.0.1:%u", data_server_port(server));
	CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_s(5), &region), 0);
}

static int good_op(bool write, uint64_t offset, void *bytes, size_t length)
{
	struct iovec iov = {bytes, length};
	struct fabric_transfer transfer = {
		.offset = offset, .iov = &iov, .iov_count = 1, .deadline_ns = in_s(10)};
	struct fabric_completion done;
	int r = (write ? fabric_post_write : fabric_post_read)(region, &transfer);
	if (r)
		return r;
	return fabric_wait(queue, &done, 1, in_s(11)) == 1 ? done.status : -ETIME;
}

/* The good client writes and reads back. */
static void check_good(uint64_t seed)
{
	uint8_t out[5000], in[5000];
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)test_random(&seed);
	CHECK_EQ(good_op(true, REGION_BYTES - sizeof(out), out, sizeof(out)), 0);
	CHECK_EQ(good_op(false, REGION_BYTES - sizeof(in), in, sizeof(in)), 0);
	CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
}

/* --- the raw peer --- */

static int raw_connect(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(data_server_port(server))};
	struct timeval patience = {.tv_sec = 20};
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static bool raw_send(int fd, const void *bytes, size_t length)
{
	return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* All of it, or false at the end of the connection. */
static bool raw_receive(int fd, void *bytes, size_t length)
{
	return length == 0 || recv(fd, bytes, length, MSG_WAITALL) == (ssize_t)length;
}

static void check_closed(int fd)
{
	uint8_t byte;
	ssize_t n = recv(fd, &byte, 1, 0);
	CHECK(n == 0 || (n < 0 && errno == ECONNRESET));
}

static struct wire_hello raw_hello(int fd)
{
	struct wire_hello hello = {
		.version = WIRE_VERSION, .kind = WIRE_CLIENT, .transport = WIRE_TCP};
	uint8_t bytes[WIRE_HELLO_BYTES];
	wire_encode_hello(&hello, bytes);
	CHECK(raw_send(fd, bytes, sizeof(bytes)));
	CHECK(raw_receive(fd, bytes, sizeof(bytes)));
	CHECK_EQ(wire_decode_hello(bytes, &hello), 0);
	CHECK_EQ(hello.kind, WIRE_NODE);
	return hello;
}

static bool raw_request(int fd, struct wire_header header, const void *payload, size_t length)
{
	uint8_t bytes[WIRE_HEADER_BYTES];
	wire_encode_header(&header, bytes);
	return raw_send(fd, bytes, sizeof(bytes)) && (!length || raw_send(fd, payload, length));
}

static struct wire_header raw_reply(int fd)
{
	uint8_t bytes[WIRE_HEADER_BYTES];
	struct wire_header reply;
	CHECK(raw_receive(fd, bytes, sizeof(bytes)));
	CHECK_EQ(wire_decode_reply(bytes, &reply), 0);
	return reply;
}

static struct wire_header raw_attach(int fd, const struct fabric_capability *with)
{
	uint8_t payload[WIRE_CAPABILITY_BYTES];
	wire_encode_capability(with, payload);
	CHECK(raw_request(fd,
		(struct wire_header){.op = WIRE_ATTACH, .tag = 1, .length = sizeof(payload)},
		payload, sizeof(payload)));
	return raw_reply(fd);
}

static struct wire_header raw_fence(int fd, const struct fabric_capability *with, uint64_t id)
{
	uint8_t payload[WIRE_FENCE_BYTES];
	wire_encode_fence(with, id, payload);
	CHECK(raw_request(fd,
		(struct wire_header){.op = WIRE_FENCE, .tag = 2, .length = sizeof(payload)},
		payload, sizeof(payload)));
	return raw_reply(fd);
}

/* Hello and attach. */
static int raw_client(uint64_t *id, uint32_t *handle)
{
	int fd = raw_connect();
	*id = raw_hello(fd).connection;
	struct wire_header reply = raw_attach(fd, &capability);
	CHECK_EQ(reply.status, WIRE_STATUS_OK);
	CHECK_EQ(reply.offset, REGION_BYTES);
	*handle = reply.handle;
	return fd;
}

/* --- cases --- */

TEST(a_hello_of_another_version_is_refused_by_name)
{
	struct wire_hello hello = {
		.version = WIRE_VERSION + 1, .kind = WIRE_CLIENT, .transport = WIRE_TCP};
	uint8_t bytes[WIRE_HELLO_BYTES];
	begin();
	int fd = raw_connect();
	wire_encode_hello(&hello, bytes);
	CHECK(raw_send(fd, bytes, sizeof(bytes)));
	CHECK(raw_receive(fd, bytes, sizeof(bytes)));
	CHECK_EQ(wire_decode_hello(bytes, &hello), 0);
	CHECK_EQ(hello.status, WIRE_STATUS_VERSION);
	CHECK_EQ(hello.version, WIRE_VERSION);
	CHECK_EQ(hello.connection, 0);
	check_closed(fd);
	close(fd);
	check_good(1);
	end();
}

TEST(a_peer_that_speaks_something_else_is_sent_away)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: memory.example\r\n\r\n";
	struct wire_hello hello;
	uint8_t bytes[WIRE_HELLO_BYTES];
	begin();
	int fd = raw_connect();
	CHECK(raw_send(fd, http, sizeof(http)));
	CHECK(raw_receive(fd, bytes, sizeof(bytes)));
	CHECK_EQ(wire_decode_hello(bytes, &hello), 0);
	CHECK_EQ(hello.status, WIRE_STATUS_PROTO);
	check_closed(fd);
	close(fd);
	end();
}

TEST(what_arrives_on_a_connection_after_it_was_fenced_is_not_stored)
{
	static uint8_t payload[8192], page[4096];
	begin();
	memset(payload, 0xbb, sizeof(payload));
	for (int round = 0; round < 20; round++) {
		uint64_t old_id, new_id;
		uint32_t handle, new_handle;
		uint64_t offset = (uint64_t)round * sizeof(payload);
		int old = raw_client(&old_id, &handle);
		/* a write begun: header and the first half */
		CHECK(raw_request(old,
			(struct wire_header){.op = WIRE_WRITE,
				.handle = handle,
				.tag = 9,
				.offset = offset,
				.length = sizeof(payload)},
			payload, 4096));
		page[0] = 0;
		for (int i = 0; i < 100000 && page[4095] != 0xbb; i++)
			CHECK_EQ(good_op(false, offset, page, 4096), 0);
		CHECK_EQ(page[4095], 0xbb); /* it has begun to be stored */
		int new = raw_client(&new_id, &new_handle);
		CHECK_EQ(raw_fence(new, &capability, old_id).status, WIRE_STATUS_OK);
		/* the second half comes late */
		(void)raw_send(old, payload + 4096, 4096);
		check_closed(old);
		for (int i = 0; i < 50; i++) {
			CHECK_EQ(good_op(false, offset + 4096, page, 4096), 0);
			for (size_t b = 0; b < sizeof(page); b++)
				CHECK_EQ(page[b], 0);
		}
		close(old);
		close(new);
		memset(page, 0, sizeof(page));
	}
	end();
}

TEST(a_region_stands_still_once_the_connection_pouring_into_it_is_fenced)
{
	enum { POUR = 900000 };
	static uint8_t payload[POUR], before[POUR], after[POUR];
	unsigned cut_short = 0;
	begin();
	for (int round = 1; round <= 150; round++) {
		uint64_t old_id, new_id;
		uint32_t handle, new_handle;
		int old = raw_client(&old_id, &handle), size = 4 << 20;
		int new = raw_client(&new_id, &new_handle);
		setsockopt(old, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		memset(payload, round, sizeof(payload));
		CHECK(raw_request(old,
			(struct wire_header){.op = WIRE_WRITE, .handle = handle, .length = POUR},
			NULL, 0));
		/* Every other time the rest comes only after the fence: cut short for certain. */
		size_t early = round % 2 ? POUR : POUR / 2;
		(void)send(old, payload, early, MSG_NOSIGNAL | MSG_DONTWAIT);
		CHECK_EQ(raw_fence(new, &capability, old_id).status, WIRE_STATUS_OK);
		CHECK_EQ(good_op(false, 0, before, POUR), 0);
		cut_short += before[POUR - 1] != (uint8_t)round;
		(void)send(old, payload, POUR - early, MSG_NOSIGNAL | MSG_DONTWAIT);
		for (int i = 0; i < 20; i++) {
			CHECK_EQ(good_op(false, 0, after, POUR), 0);
			CHECK_EQ(memcmp(before, after, POUR), 0);
		}
		close(old);
		close(new);
	}
	CHECK_LT(0, cut_short); /* else nothing was tried */
	end();
}

TEST(a_fence_needs_a_capability_and_cuts_only_the_connection_it_names)
{
	uint64_t first_id, second_id, third_id;
	uint32_t handle;
	struct fabric_capability bad;
	begin();
	bad = capability;
	bad.key[3] ^= 4;
	int first = raw_client(&first_id, &handle), second = raw_client(&second_id, &handle);
	int third = raw_client(&third_id, &handle);
	CHECK_NE(first_id, second_id);
	CHECK_EQ(raw_fence(second, &bad, first_id).status, WIRE_STATUS_ACCESS);
	CHECK_EQ(raw_attach(first, &capability).status, WIRE_STATUS_OK); /* still there */
	CHECK_EQ(raw_fence(first, &capability, first_id).status, WIRE_STATUS_PROTO);
	CHECK_EQ(raw_fence(first, &capability, 0).status, WIRE_STATUS_PROTO);
	CHECK_EQ(raw_fence(first, &capability, first_id ^ 1).status, WIRE_STATUS_OK); /* gone */
	CHECK_EQ(raw_fence(second, &capability, first_id).status, WIRE_STATUS_OK);
	check_closed(first);
	CHECK_EQ(raw_fence(second, &capability, first_id).status, WIRE_STATUS_OK); /* again */
	CHECK_EQ(raw_fence(second, &capability, third_id).status, WIRE_STATUS_OK); /* a newer one */
	check_closed(third);
	CHECK_EQ(raw_attach(second, &capability).status, WIRE_STATUS_OK);
	close(first);
	close(second);
	close(third);
	check_good(3);
	end();
}

TEST(connections_that_fence_each_other_do_not_deadlock)
{
	begin();
	for (int round = 0; round < 200; round++) {
		uint64_t ids[2];
		uint32_t handle;
		uint8_t frame[2][WIRE_HEADER_BYTES + WIRE_FENCE_BYTES];
		int fds[2] = {raw_client(&ids[0], &handle), raw_client(&ids[1], &handle)};
		for (int i = 0; i < 2; i++) {
			struct wire_header header = {.op = WIRE_FENCE, .length = WIRE_FENCE_BYTES};
			wire_encode_header(&header, frame[i]);
			wire_encode_fence(&capability, ids[!i], frame[i] + WIRE_HEADER_BYTES);
		}
		for (int i = 0; i < 2; i++)
			(void)raw_send(fds[i], frame[i], sizeof(frame[i]));
		/* at least one is cut; nobody hangs */
		int closed = 0;
		for (int i = 0; i < 2; i++) {
			uint8_t byte[WIRE_HEADER_BYTES + 1];
			shutdown(fds[i], SHUT_WR);
			closed +=
				recv(fds[i], byte, sizeof(byte), MSG_WAITALL) <= WIRE_HEADER_BYTES;
			close(fds[i]);
		}
		CHECK_EQ(closed, 2);
	}
	check_good(20);
	end();
}

TEST(refused_operations_keep_the_stream_in_step)
{
	static uint8_t payload[100000], back[100000];
	struct wire_header reply;
	uint64_t id;
	uint32_t handle;
	begin();
	int fd = raw_client(&id, &handle);
	for (uint64_t tag = 1; tag < 200; tag++) {
		bool bad_handle = tag % 3 == 0, out = tag % 3 == 1;
		struct wire_header request = {.op = tag % 2 ? WIRE_WRITE : WIRE_READ,
			.handle = bad_handle ? handle + 1 + (uint32_t)tag * 1000 : handle,
			.tag = tag,
			.offset = out ? REGION_BYTES - 10 : 0,
			.length = 1000 + (uint32_t)tag * 400};
		CHECK(raw_request(fd, request, payload, tag % 2 ? request.length : 0));
		reply = raw_reply(fd);
		CHECK_EQ(reply.tag, tag);
		CHECK_EQ(reply.status, bad_handle ? WIRE_STATUS_ACCESS
				       : out      ? WIRE_STATUS_RANGE
						  : WIRE_STATUS_OK);
		CHECK_EQ(reply.length, tag % 2 ? 0 : request.length);
		CHECK(raw_receive(fd, back, reply.length));
		for (uint32_t i = 0; reply.status && i < reply.length; i++)
			CHECK_EQ(back[i], 0);
	}
	/* the largest read there is, refused: its payload comes all the same */
	uint8_t *large = malloc(FABRIC_OP_BYTES_MAX);
	CHECK(raw_request(fd,
		(struct wire_header){
			.op = WIRE_READ, .handle = 77777, .tag = 5, .length = FABRIC_OP_BYTES_MAX},
		NULL, 0));
	CHECK_EQ(raw_reply(fd).status, WIRE_STATUS_ACCESS);
	CHECK(raw_receive(fd, large, FABRIC_OP_BYTES_MAX));
	free(large);
	/* a handle given back opens nothing */
	CHECK(raw_request(fd, (struct wire_header){.op = WIRE_DETACH, .handle = handle}, NULL, 0));
	CHECK(raw_request(fd,
		(struct wire_header){.op = WIRE_WRITE, .handle = handle, .tag = 6, .length = 10},
		payload, 10));
	CHECK_EQ(raw_reply(fd).status, WIRE_STATUS_ACCESS);
	close(fd);
	check_good(4);
	end();
}

/* Requests that are nearly right, then bytes that are not, in pieces of all sizes. */
static void throw_garbage(uint64_t *random)
{
	uint8_t bytes[600];
	size_t length = 0;
	int fd = raw_connect();
	if (test_random(random) % 8) {
		(void)raw_hello(fd);
		if (test_random(random) % 2)
			(void)raw_attach(fd, &capability);
	}
	while (length + WIRE_HEADER_BYTES <= sizeof(bytes)) {
		uint64_t dice = test_random(random);
		struct wire_header header = {.op = (uint8_t)(1 + dice % 6),
			.handle = (uint32_t)(dice >> 8 & 1),
			.tag = dice,
			.offset = dice >> 16 & 0x7ffff,
			.length = (uint32_t)(dice >> 40 & 0xff)};
		if (dice % 7 == 0)
			header.offset = dice;
		if (dice % 11 == 0)
			header.length = (uint32_t)dice;
		wire_encode_header(&header, bytes + length);
		if (dice % 5 == 0)
			bytes[length + dice % 32] ^= (uint8_t)(1 + dice % 255);
		length += WIRE_HEADER_BYTES;
	}
	for (size_t at = 0; at < length;) {
		size_t piece = 1 + test_random(random) % 100;
		piece = FM_MIN(piece, length - at);
		if (!raw_send(fd, bytes + at, piece))
			break;
		at += piece;
	}
	close(fd);
}

TEST(garbage_on_the_data_port_disturbs_no_good_client)
{
	uint64_t random = 77;
	begin();
	for (int i = 0; i < 1500; i++) {
		throw_garbage(&random);
		if (i % 4 == 0)
			check_good((uint64_t)i);
	}
	struct data_server_stats stats;
	data_server_stats(server, &stats);
	CHECK_LT(100, stats.dropped_count);
	end();
}

TEST(a_flood_of_connections_neither_cuts_clients_nor_keeps_new_ones_out)
{
	int fds[300];
	begin();
	for (int i = 0; i < 300; i++) {
		fds[i] = raw_connect();
		if (i % 50 == 0)
			check_good((uint64_t)i);
	}
	CHECK_LE(data_server_connections(server), CONNECTIONS_MAX);
	uint64_t until = in_s(20);
	int r = -EAGAIN;
	while (r && clock_now_ns() < until) {
		struct fabric_region *late;
		char endpoint[64];
		snprintf(endpoint, sizeof(endpoint), "tcp:127.0.0.1:%u", data_server_port(server));
		struct fabric_queue_options options = {.depth = 4};
		struct fabric_queue *other;
		CHECK_EQ(fabric_queue_open(&options, &other), 0);
		r = fabric_attach(other, endpoint, &capability, in_s(5), &late);
		fabric_queue_close(other);
	}
	CHECK_EQ(r, 0);
	check_good(5);
	for (int i = 0; i < 300; i++)
		close(fds[i]);
	end();
}

TEST(attached_connections_fill_the_table_and_newcomers_are_told_so)
{
	int fds[CONNECTIONS_MAX];
	uint64_t id;
	uint32_t handle;
	begin();
	for (int i = 0; i < CONNECTIONS_MAX - 1; i++)
		fds[i] = raw_client(&id, &handle);
	int fd = raw_connect();
	uint8_t bytes[WIRE_HELLO_BYTES];
	struct wire_hello hello;
	CHECK(raw_receive(fd, bytes, sizeof(bytes)));
	CHECK_EQ(wire_decode_hello(bytes, &hello), 0);
	CHECK_EQ(hello.status, WIRE_STATUS_BUSY);
	close(fd);
	check_good(6);
	for (int i = 0; i < CONNECTIONS_MAX - 1; i++)
		close(fds[i]);
	end();
}

/* Waits for the connections to become this many. */
static void wait_for_connections(uint32_t count)
{
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
		struct pollfd none = {.fd = -1};
		poll(&none, 1, 5);
	} while (data_server_connections(server) != count && now.tv_sec - start.tv_sec < 10);
	CHECK_EQ(data_server_connections(server), count);
}

TEST(those_who_dawdle_are_dropped_and_those_who_idle_are_not)
{
	uint64_t id;
	uint32_t handle;
	uint8_t half[20] = {0};
	begin();
	int silent = raw_connect();
	int slow = raw_connect();
	CHECK(raw_send(slow, half, 7));
	int idle = raw_client(&id, &handle);
	int stuck = raw_client(&id, &handle);
	CHECK(raw_request(stuck,
		(struct wire_header){.op = WIRE_WRITE, .handle = handle, .length = 1000}, half,
		sizeof(half)));
	int deaf = raw_client(&id, &handle); /* asks for 64 MB and takes none of it */
	for (int i = 0; i < 64; i++)
		CHECK(raw_request(deaf,
			(struct wire_header){.op = WIRE_READ,
				.handle = handle,
				.tag = (uint64_t)i,
				.length = 1000000},
			NULL, 0));
	check_good(7);
	CHECK_EQ(data_server_connections(server), 6);
	atomic_fetch_add(&skew_ns, 6 * NS_PER_S);
	wait_for_connections(4);
	check_closed(silent);
	check_closed(slow);
	check_good(8);
	/* each tick sees what moved since the last; then nothing does */
	for (int i = 0; i < 2; i++) {
		struct pollfd none = {.fd = -1};
		poll(&none, 1, 1500);
		atomic_fetch_add(&skew_ns, 31 * NS_PER_S);
	}
	wait_for_connections(2);
	CHECK_EQ(raw_attach(idle, &capability).status, WIRE_STATUS_OK);
	check_good(9);
	close(silent), close(slow), close(idle), close(stuck), close(deaf);
	end();
}

static unsigned descriptors_count(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int shm_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 20};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", unix_path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* A message with a descriptor nobody asked for. */
static void send_with_descriptor(int fd, const void *bytes, size_t length)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)bytes, length};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	(void)!sendmsg(fd, &message, MSG_NOSIGNAL);
}

TEST(strange_messages_on_the_shm_socket_end_only_their_own_connection)
{
	static uint8_t bytes[4096];
	uint64_t random = 5;
	struct wire_hello hello = {
		.version = WIRE_VERSION, .kind = WIRE_CLIENT, .transport = WIRE_SHM};
	begin();
	unsigned before = descriptors_count();
	for (int i = 0; i < 300; i++) {
		int fd = shm_connect();
		for (size_t b = 0; b < 200; b++)
			bytes[b] = (uint8_t)test_random(&random);
		if (i % 2) {
			uint8_t greeting[WIRE_HELLO_BYTES];
			wire_encode_hello(&hello, greeting);
			CHECK(raw_send(fd, greeting, sizeof(greeting)));
			CHECK(raw_receive(fd, greeting, sizeof(greeting)));
			/* a good header on a message of the wrong length */
			struct wire_header header = {
				.op = WIRE_ATTACH, .length = WIRE_CAPABILITY_BYTES};
			wire_encode_header(&header, bytes);
		}
		if (i % 3)
			CHECK(raw_send(fd, bytes, i % 7 ? (size_t)(1 + i % 71) : sizeof(bytes)));
		else
			send_with_descriptor(fd, bytes, 33);
		uint8_t answer[WIRE_HELLO_BYTES];
		while (recv(fd, answer, sizeof(answer), 0) > 0)
			;
		close(fd);
	}
	check_good(10);
	wait_for_connections(1);
	CHECK_EQ(descriptors_count(), before);
	end();
}

TEST(a_client_that_truncates_its_shared_region_harms_only_itself)
{
	static uint8_t payload[10000];
	struct fabric_capability other;
	struct lease *lease;
	static const uint8_t client[16] = "evil";
	begin();
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &other), 0);
	CHECK_EQ(lease_get(table, &other, &lease), 0);
	int memfd = dup(lease_memfd(lease));
	lease_put(lease);
	int fd = raw_connect();
	(void)raw_hello(fd);
	struct wire_header attached = raw_attach(fd, &other);
	CHECK_EQ(attached.status, WIRE_STATUS_OK);
	CHECK_EQ(ftruncate(memfd, 0), 0);
	/* Header and payload in one piece, so that some of it goes through the server's own buffer.
	 */
	uint8_t frame[WIRE_HEADER_BYTES + 200];
	struct wire_header request = {.op = WIRE_WRITE, .handle = attached.handle, .length = 200};
	memset(frame, 7, sizeof(frame));
	wire_encode_header(&request, frame);
	CHECK(raw_send(fd, frame, sizeof(frame)));
	CHECK_EQ(raw_reply(fd).status, WIRE_STATUS_ACCESS);
	request.length = sizeof(payload);
	(void)raw_request(fd, request, payload, sizeof(payload));
	request.op = WIRE_READ;
	(void)raw_request(fd, request, NULL, 0);
	check_good(11);
	close(fd);
	close(memfd);
	check_good(12);
	end();
}

TEST(addresses_that_cannot_be_bound_are_refused_with_a_reason)
{
	char path[64], address[64];
	begin();
	struct data_server *second;
	struct data_server_options options = {.leases = table};
	snprintf(address, sizeof(address), "127.0.0.1:%u", data_server_port(server));
	options.tcp_address = address;
	CHECK_EQ(data_server_open(&options, &second), -EADDRINUSE);
	options.tcp_address = "127.0.0.1";
	CHECK_EQ(data_server_open(&options, &second), -EINVAL);
	options.tcp_address = "no.such.host.invalid:1";
	CHECK_EQ(data_server_open(&options, &second), -EADDRNOTAVAIL);
	options.tcp_address = NULL;
	options.unix_path = unix_path; /* a living one */
	CHECK_EQ(data_server_open(&options, &second), -EADDRINUSE);
	check_good(13);
	snprintf(path, sizeof(path), "/tmp/data_server_test.%d.file", getpid());
	int fd = open(path, O_CREAT | O_RDWR, 0600);
	options.unix_path = path; /* somebody's file */
	CHECK_EQ(data_server_open(&options, &second), -EADDRINUSE);
	CHECK_EQ(access(path, F_OK), 0);
	close(fd);
	unlink(path);
	/* a stale socket file is replaced, and removed at the end */
	struct sockaddr_un stale = {.sun_family = AF_UNIX};
	snprintf(stale.sun_path, sizeof(stale.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&stale, sizeof(stale)), 0);
	close(fd);
	CHECK_EQ(data_server_open(&options, &second), 0);
	data_server_close(second);
	CHECK_EQ(access(path, F_OK), -1);
	end();
}
