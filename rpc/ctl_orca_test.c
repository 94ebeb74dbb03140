/*
 * rpc/ctl_orca_test.c: load reports in the format of gRPC's world: what we write others can read,
 * what others write does no harm, and a reply carries it.
 */
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/test.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_orca.h"
#include "rpc/ctl_server.h"

static const struct orca_report busy = {
	.load = {.epoch = 0xfffffff1u,
		.delay_ns = 1234000,
		.in_flight = 7,
		.flags = LOAD_DRAINING,
		.free_bytes = 6ull << 30},
	.cpu_utilization = 0.5,
	.mem_utilization = 0.25,
	.rps = 1000,
};

TEST(what_was_encoded_is_decoded)
{
	uint8_t bytes[ORCA_BYTES_MAX];
	struct load load;
	size_t length = orca_encode(&busy, bytes);

	CHECK(orca_decode(bytes, length, &load));
	CHECK_EQ(load.epoch, busy.load.epoch);
	CHECK_EQ(load.delay_ns, busy.load.delay_ns);
	CHECK_EQ(load.in_flight, 7);
	CHECK_EQ(load.flags, LOAD_DRAINING);
	CHECK_EQ(load.free_bytes, busy.load.free_bytes);
}

/* Field numbers and types of xds.data.orca.v3.OrcaLoadReport, byte by byte. */
TEST(the_utilizations_lie_where_other_balancers_look)
{
	static const uint8_t cpu[] = {0x09, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f}; /* 1: double 0.5 */
	static const uint8_t mem[] = {0x11, 0, 0, 0, 0, 0, 0, 0xd0, 0x3f}; /* 2: double 0.25 */
	static const uint8_t app[] = {0x49, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f}; /* 9: double 0.5 */
	static const uint8_t named[] = {0x42, 0x14, 0x0a, 9, 'i', 'n', '_', 'f', 'l', 'i', 'g', 'h',
		't', 0x11, 0, 0, 0, 0, 0, 0, 0x1c, 0x40}; /* 8: {1: "in_flight", 2: 7.0} */
	uint8_t bytes[ORCA_BYTES_MAX];
	size_t length = orca_encode(&busy, bytes);

	CHECK(memcmp(bytes, cpu, sizeof(cpu)) == 0);
	CHECK(memcmp(bytes + sizeof(cpu), mem, sizeof(mem)) == 0);
	CHECK(memmem(bytes, length, app, sizeof(app)) != NULL);
	CHECK(memmem(bytes, length, named, sizeof(named)) != NULL);
}

TEST(a_report_of_somebody_else_says_nothing_about_queues)
{
	/* cpu_utilization 0.5, and a utilization map {"disk": 1.0}, which we do not know */
	static const uint8_t theirs[] = {0x09, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0x2a, 0x0f, 0x0a, 4,
		'd', 'i', 's', 'k', 0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f};
	struct load load;

	CHECK(!orca_decode(theirs, sizeof(theirs), &load));
	CHECK(!orca_decode("", 0, &load));
}

static size_t encode_in_flight(uint8_t *bytes, double value)
{
	static const uint8_t head[] = {
		0x42, 0x14, 0x0a, 9, 'i', 'n', '_', 'f', 'l', 'i', 'g', 'h', 't', 0x11};

	memcpy(bytes, head, sizeof(head));
	memcpy(bytes + sizeof(head), &value, sizeof(value));
	return sizeof(head) + sizeof(value);
}

TEST(numbers_that_are_none_are_clipped)
{
	uint8_t bytes[64];
	struct load load;

	CHECK(orca_decode(bytes, encode_in_flight(bytes, NAN), &load));
	CHECK_EQ(load.in_flight, 0);
	CHECK(orca_decode(bytes, encode_in_flight(bytes, -5), &load));
	CHECK_EQ(load.in_flight, 0);
	CHECK(orca_decode(bytes, encode_in_flight(bytes, 1e30), &load));
	CHECK_EQ(load.in_flight, UINT16_MAX);
	CHECK(orca_decode(bytes, encode_in_flight(bytes, INFINITY), &load));
	CHECK_EQ(load.in_flight, UINT16_MAX);
}

TEST(any_bytes_do_no_harm)
{
	uint8_t bytes[ORCA_BYTES_MAX], good[ORCA_BYTES_MAX];
	size_t length = orca_encode(&busy, good);
	unsigned decoded = 0;
	uint64_t random = 1;
	struct load load;

	for (unsigned i = 0; i < 20000; i++) {
		size_t cut = test_random(&random) % (length + 1);

		memcpy(bytes, good, length);
		for (unsigned flips = test_random(&random) % 4; flips > 0; flips--)
			bytes[test_random(&random) % length] = (uint8_t)test_random(&random);
		decoded += orca_decode(bytes, cut, &load);
	}
	CHECK(decoded > 0 && decoded < 20000);
}

static bool says_load;

static bool say_load(void *context, struct orca_report *report)
{
	(void)context;
	*report = busy;
	return says_load;
}

static int handle(void *context, const uint8_t *request, size_t bytes, struct ctl_reply *reply)
{
	(void)context;
	if (bytes > 0 && request[0] == 'n')
		return ctl_reply_error(reply, -ENOENT, "no");
	return ctl_reply_space(reply, 0) != NULL ? 0 : -ENOMEM;
}

static void call(struct ctl_client *client, const char *word, struct ctl_result *result)
{
	struct ctl_request request = {
		.method = "/test/Any", .bytes = word, .length = 1, .timeout_ns = 5 * NS_PER_S};

	ctl_client_call(client, &request, result);
	ctl_result_clear(result);
}

static int serve(struct ctl_server **server)
{
	static const struct ctl_method methods[] = {{"/test/Any", handle}};
	static const struct ctl_server_options options = {
		.methods = methods, .methods_count = 1, .threads = 2, .load = say_load};
	int port;

	CHECK_EQ(ctl_server_open(&options, server), 0);
	CHECK_EQ(ctl_server_listen(*server, "127.0.0.1:0", &port), 0);
	CHECK_EQ(ctl_server_start(*server), 0);
	return port;
}

/* A header as a literal that is not indexed. */
static size_t put_header(uint8_t *at, const char *name, const char *value)
{
	size_t name_bytes = strlen(name), value_bytes = strlen(value);

	at[0] = 0;
	at[1] = (uint8_t)name_bytes;
	memcpy(at + 2, name, name_bytes);
	at[2 + name_bytes] = (uint8_t)value_bytes;
	memcpy(at + 3 + name_bytes, value, value_bytes);
	return 3 + name_bytes + value_bytes;
}

static size_t put_frame(uint8_t *at, size_t length, uint8_t type, uint8_t flags, uint8_t stream)
{
	const uint8_t head[] = {0, 0, (uint8_t)length, type, flags, 0, 0, 0, stream};

	memcpy(at, head, sizeof(head));
	return sizeof(head);
}

/* A call of /test/Any as any HTTP/2 client would make it. */
static size_t raw_request(uint8_t *bytes)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	uint8_t headers[256];
	size_t length = 0, at = sizeof(preface) - 1;

	memcpy(bytes, preface, at);
	at += put_frame(bytes + at, 0, 4, 0, 0); /* SETTINGS */
	length += put_header(headers + length, ":method", "POST");
	length += put_header(headers + length, ":scheme", "http");
	length += put_header(headers + length, ":path", "/test/Any");
	length += put_header(headers + length, ":authority", "x");
	length += put_header(headers + length, "te", "trailers");
	length += put_header(headers + length, "content-type", "application/grpc");
	at += put_frame(bytes + at, length, 1, 4, 1); /* HEADERS, END_HEADERS */
	memcpy(bytes + at, headers, length);
	at += length;
	at += put_frame(bytes + at, 6, 0, 1, 1); /* DATA, END_STREAM */
	memcpy(bytes + at, "\0\0\0\0\1y", 6);
	return at + 6;
}

/* Our own client is not shown this one: look at what is on the wire. */
TEST(other_grpc_clients_get_the_trailer_they_know)
{
	struct ctl_server *server;
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)serve(&server))};
	struct timeval patience = {.tv_sec = 5};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t request[512], answer[4096];
	size_t length = raw_request(request), have = 0;
	ssize_t got = 1;

	says_load = true;
	CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQ(send(fd, request, length, 0), (ssize_t)length);
	while (got > 0 && have < sizeof(answer) &&
		memmem(answer, have, ORCA_TRAILER, strlen(ORCA_TRAILER)) == NULL) {
		got = recv(fd, answer + have, sizeof(answer) - have, 0);
		have += got > 0 ? (size_t)got : 0;
	}
	CHECK(memmem(answer, have, ORCA_TRAILER, strlen(ORCA_TRAILER)) != NULL);
	close(fd);
	ctl_server_close(server);
}

TEST(every_answer_carries_the_load_of_a_server_that_has_one)
{
	struct ctl_server *server;
	struct ctl_client *client;
	struct ctl_result result;
	char address[64];

	snprintf(address, sizeof(address), "127.0.0.1:%d", serve(&server));
	CHECK_EQ(ctl_client_open(address, &client), 0);
	says_load = true;
	call(client, "y", &result);
	CHECK_EQ(result.status, 0);
	CHECK(result.has_load);
	CHECK_EQ(result.load.in_flight, 7);
	call(client, "n", &result);
	CHECK_EQ(result.status, -ENOENT);
	CHECK(result.has_load);
	CHECK_EQ(result.load.delay_ns, 1234000);
	says_load = false;
	call(client, "y", &result);
	CHECK_EQ(result.status, 0);
	CHECK(!result.has_load);
	ctl_client_close(client);
	ctl_server_close(server);
}
