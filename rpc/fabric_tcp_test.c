/*
 * rpc/fabric_tcp_test.c: the tcp provider against a scripted node that says the wrong thing, or
 * nothing, at each point of the conversation.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "rpc/fabric.h"
#include "rpc/wire.h"

#define REGION_BYTES 65536u
#define CONNECTIONS 8 /* a script has at most so many */

/* What the node does with a connection. Replies are right until the point named. */
enum trick {
	TRICK_NONE,
	HELLO_GARBAGE,
	HELLO_VERSION,
	HELLO_BUSY,
	HELLO_SILENT,
	HELLO_CLOSE,
	FENCE_CLOSE, /* hangs up on FENCE */
	READ_SILENT, /* never answers reads and writes */
	READ_CLOSE,  /* hangs up in the middle of the payload */
	READ_TAG,    /* another operation's tag */
	READ_OP,     /* a write's reply */
	READ_LENGTH, /* fewer bytes than asked for */
	READ_CRC,
	READ_TWICE, /* one reply too many */
};

struct script {
	enum trick tricks[CONNECTIONS];
	unsigned count; /* connections to be accepted */
	uint64_t fenced[CONNECTIONS];
	unsigned fenced_count;
};

static struct script script;
static int listener = -1;
static pthread_t node_thread;
static char endpoint[64];
static const struct fabric_capability capability = {.lease = 5, .incarnation = 77, .epoch = 1};

static bool get(int fd, void *bytes, size_t length)
{
	return recv(fd, bytes, length, MSG_WAITALL) == (ssize_t)length;
}

static bool put(int fd, const void *bytes, size_t length)
{
	return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static bool node_hello(int fd, enum trick trick, uint64_t id)
{
	uint8_t bytes[WIRE_HELLO_BYTES];
	struct wire_hello hello = {.version = WIRE_VERSION,
		.kind = WIRE_NODE,
		.transport = WIRE_TCP,
		.connection = id,
		.incarnation = 77};
	if (!get(fd, bytes, sizeof(bytes)) || trick == HELLO_CLOSE)
		return false;
	if (trick == HELLO_SILENT)
		return get(fd, bytes, 1); /* until the client gives up */
	if (trick == HELLO_VERSION)
		hello.version++;
	if (trick == HELLO_BUSY)
		hello = (struct wire_hello){.version = WIRE_VERSION,
			.kind = WIRE_NODE,
			.transport = WIRE_TCP,
			.status = WIRE_STATUS_BUSY};
	wire_encode_hello(&hello, bytes);
	if (trick == HELLO_GARBAGE)
		bytes[9] ^= 1;
	return put(fd, bytes, sizeof(bytes));
}

/* The reply to a read or write, with its trick. */
static bool node_move(int fd, enum trick trick, const struct wire_header *request)
{
	static const uint8_t payload[REGION_BYTES] = {1};
	uint8_t bytes[WIRE_HEADER_BYTES];
	bool read = request->op == WIRE_READ;
	struct wire_header reply = {.op = request->op | WIRE_REPLY,
		.tag = request->tag,
		.length = read ? request->length : 0};
	if (trick == READ_SILENT)
		return true;
	if (trick == READ_TAG)
		reply.tag++;
	if (trick == READ_LENGTH)
		reply.length--;
	if (trick == READ_OP) {
		reply.op = WIRE_WRITE | WIRE_REPLY;
		reply.length = 0;
	}
	wire_encode_header(&reply, bytes);
	if (trick == READ_CRC)
		bytes[30] ^= 1;
	if (!put(fd, bytes, sizeof(bytes)))
		return false;
	if (trick == READ_CLOSE)
		return put(fd, payload, request->length / 2) && false;
	if (reply.length && !put(fd, payload, reply.length))
		return false;
	return trick != READ_TWICE || put(fd, bytes, sizeof(bytes));
}

static bool node_request(int fd, enum trick trick)
{
	static uint8_t payload[REGION_BYTES];
	uint8_t bytes[WIRE_HEADER_BYTES];
	struct wire_header request;
	struct fabric_capability shown;
	if (!get(fd, bytes, sizeof(bytes)) || wire_decode_request(bytes, &request))
		return false;
	if (request.op != WIRE_READ && !get(fd, payload, request.length))
		return false;
	if (request.op == WIRE_READ || request.op == WIRE_WRITE)
		return node_move(fd, trick, &request);
	struct wire_header reply = {.op = request.op | WIRE_REPLY,
		.tag = request.tag,
		.handle = 3,
		.offset = request.op == WIRE_ATTACH ? REGION_BYTES : 0};
	if (request.op == WIRE_FENCE) {
		wire_decode_fence(payload, &shown, &script.fenced[script.fenced_count++]);
		if (trick == FENCE_CLOSE)
			return false;
	}
	wire_encode_header(&reply, bytes);
	return put(fd, bytes, sizeof(bytes));
}

static void *node_main(void *argument)
{
	(void)argument;
	for (unsigned i = 0; i < script.count; i++) {
		int fd = accept(listener, NULL, NULL);
		if (fd < 0)
			break;
		if (node_hello(fd, script.tricks[i], 101 + i))
			while (node_request(fd, script.tricks[i]))
				;
		close(fd);
	}
	return NULL;
}

static void node_begin(const enum trick *tricks, unsigned count)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
	CHECK_EQ(listen(listener, 8), 0);
	CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	snprintf(endpoint, sizeof(endpoint), "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	memset(&script, 0, sizeof(script));
	memcpy(script.tricks, tricks, count * sizeof(*tricks));
	script.count = count;
	CHECK_EQ(pthread_create(&node_thread, NULL, node_main, NULL), 0);
}

static void node_end(struct fabric_queue *queue)
{
	fabric_queue_close(queue); /* hangs up, so that the node's thread goes on to its end */
	shutdown(listener, SHUT_RDWR);
	pthread_join(node_thread, NULL);
	close(listener);
}

static uint64_t in_ms(uint64_t ms)
{
	return clock_now_ns() + ms * NS_PER_MS;
}

static struct fabric_queue *open_queue(void)
{
	struct fabric_queue_options options = {.depth = 8, .spin_ns = 1000};
	struct fabric_queue *queue;
	CHECK_EQ(fabric_queue_open(&options, &queue), 0);
	return queue;
}

static int move(struct fabric_queue *queue, struct fabric_region *region, bool write, uint64_t ms)
{
	static uint8_t bytes[8192];
	struct iovec iov = {bytes, sizeof(bytes)};
	struct fabric_transfer transfer = {
		.iov = &iov, .iov_count = 1, .tag = 1, .deadline_ns = in_ms(ms)};
	struct fabric_completion done;
	int r = (write ? fabric_post_write : fabric_post_read)(region, &transfer);
	if (r)
		return r;
	CHECK_EQ(fabric_wait(queue, &done, 1, in_ms(ms + 5000)), 1);
	return done.status;
}

TEST(a_node_that_greets_wrongly_is_not_attached_to)
{
	static const struct {
		enum trick trick;
		int status;
	} cases[] = {{HELLO_GARBAGE, -EPROTO}, {HELLO_VERSION, -EPROTO},
		{HELLO_BUSY, -ECONNREFUSED}, {HELLO_SILENT, -ETIMEDOUT},
		{HELLO_CLOSE, -ECONNREFUSED}};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(cases); i++) {
		struct fabric_queue *queue = open_queue();
		struct fabric_region *region;
		node_begin(&cases[i].trick, 1);
		uint64_t ms = cases[i].status == -ETIMEDOUT ? 50 : 5000;
		CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(ms), &region),
			cases[i].status);
		CHECK(region == NULL);
		node_end(queue);
	}
}

TEST(a_reply_that_is_not_the_expected_one_breaks_the_connection)
{
	for (enum trick trick = READ_CLOSE; trick <= READ_CRC; trick++) {
		enum trick tricks[2] = {trick, TRICK_NONE};
		struct fabric_queue *queue = open_queue();
		struct fabric_region *region;
		node_begin(tricks, 2);
		CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(5000), &region), 0);
		CHECK_EQ(fabric_region_bytes(region), REGION_BYTES);
		CHECK_EQ(move(queue, region, false, 5000), -ECONNRESET);
		CHECK(!fabric_region_up(region));
		CHECK_EQ(fabric_fence(region, in_ms(5000)), 0);
		CHECK_EQ(script.fenced_count, 1);
		CHECK_EQ(script.fenced[0], 101);
		CHECK_EQ(move(queue, region, false, 5000), 0);
		CHECK_EQ(move(queue, region, true, 5000), 0);
		node_end(queue);
	}
}

TEST(a_reply_nobody_asked_for_breaks_the_connection)
{
	const enum trick tricks[1] = {READ_TWICE};
	struct fabric_queue *queue = open_queue();
	struct fabric_region *region;
	struct fabric_completion done;
	node_begin(tricks, 1);
	CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(5000), &region), 0);
	CHECK_EQ(move(queue, region, true, 5000), 0);
	uint64_t until = in_ms(2000);
	while (fabric_region_up(region) && clock_now_ns() < until)
		CHECK_EQ(fabric_poll(queue, &done, 1), 0);
	CHECK(!fabric_region_up(region));
	node_end(queue);
}

TEST(the_connection_in_doubt_is_the_one_fenced_however_many_tries_it_takes)
{
	const enum trick tricks[4] = {READ_SILENT, FENCE_CLOSE, FENCE_CLOSE, TRICK_NONE};
	struct fabric_queue *queue = open_queue();
	struct fabric_region *region;
	node_begin(tricks, 4);
	CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(5000), &region), 0);
	CHECK_EQ(move(queue, region, true, 30), -ETIMEDOUT);
	CHECK_EQ(fabric_fence(region, in_ms(5000)), -ECONNRESET);
	CHECK_EQ(fabric_fence(region, in_ms(5000)), -ECONNRESET);
	CHECK(!fabric_region_up(region));
	CHECK_EQ(fabric_fence(region, in_ms(5000)), 0);
	CHECK_EQ(script.fenced_count, 3);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(script.fenced[i], 101); /* the ones in between carried no writes */
	CHECK_EQ(move(queue, region, true, 5000), 0);
	node_end(queue);
}

TEST(a_region_attached_to_a_broken_connection_has_it_fenced_first)
{
	const enum trick tricks[2] = {READ_SILENT, TRICK_NONE};
	struct fabric_queue *queue = open_queue();
	struct fabric_region *region, *second;
	node_begin(tricks, 2);
	CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(5000), &region), 0);
	CHECK_EQ(move(queue, region, true, 30), -ETIMEDOUT);
	CHECK_EQ(fabric_attach(queue, endpoint, &capability, in_ms(5000), &second), 0);
	CHECK_EQ(script.fenced_count, 1);
	CHECK_EQ(script.fenced[0], 101);
	CHECK(!fabric_region_up(region));
	CHECK_EQ(move(queue, second, true, 5000), 0);
	CHECK_EQ(fabric_fence(region, in_ms(5000)), 0); /* already fenced: attaches only */
	CHECK_EQ(script.fenced_count, 1);
	CHECK_EQ(move(queue, region, true, 5000), 0);
	node_end(queue);
}
