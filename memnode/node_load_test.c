/*
 * memnode/node_load_test.c: what a node says of itself when it is asked: by probes over UDP and in
 * the control plane's answers. With a real data server and a real client that keeps it busy.
 */
#include "base/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "lb/prober.h"
#include "memnode/node_load.h"
#include "rpc/fabric.h"

#define MEMORY_BYTES (64u << 20)
#define REGION_BYTES (1u << 20)
#define SLOW_NS (200 * NS_PER_MS)

static struct lease_table *table;
static struct data_server *server;
static struct node_load *load;
static struct prober *prober;

static void end(void)
{
	prober_close(prober);
	node_load_close(load);
	data_server_close(server);
	if (table != NULL)
		lease_table_close(table);
	prober = NULL;
	load = NULL;
	server = NULL;
	table = NULL;
}

static int open_load(enum probe_mode mode, const char *allow)
{
	struct node_load_options options = {
		.data = server,
		.leases = table,
		.address = "127.0.0.1:0",
		.port = data_server_port(server),
		.mode = mode,
		.allow = allow,
	};

	return node_load_open(&options, &load);
}

static void begin(uint64_t slow_reply_ns)
{
	struct lease_table_options leases = {.memory_bytes = MEMORY_BYTES};
	struct data_server_options data = {
		.tcp_address = "127.0.0.1:0", .threads = 2, .slow_reply_ns = slow_reply_ns};

	end(); /* of a case that failed */
	log_set_level(LOG_ERROR);
	CHECK_EQ(lease_table_open(&leases, &table), 0);
	data.leases = table;
	CHECK_EQ(data_server_open(&data, &server), 0);
	CHECK_EQ(prober_open(1, 100 * NS_PER_MS, &prober), 0);
	CHECK_EQ(prober_set(prober, 0, "127.0.0.1", data_server_port(server)), 0);
}

/* Asks once. False: no answer within the time. */
static bool ask(struct load *answered, int timeout_ms)
{
	struct pollfd fd = {.fd = prober_fd(prober), .events = POLLIN};
	struct prober_answer answer;

	CHECK_EQ(prober_send(prober, 0, 0, clock_now_ns()), 0);
	if (poll(&fd, 1, timeout_ms) != 1 || !prober_take(prober, clock_now_ns(), &answer))
		return false;
	*answered = answer.load;
	return true;
}

TEST(a_probe_is_told_the_free_memory)
{
	static const uint8_t client[16] = "test";
	struct fabric_capability capability;
	struct load now = {0};

	begin(0);
	CHECK_EQ(open_load(PROBE_USER, NULL), 0);
	CHECK(ask(&now, 2000));
	CHECK_EQ(now.free_bytes, MEMORY_BYTES);
	CHECK_EQ(now.flags, 0);
	CHECK_NE(now.epoch, 0);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &capability), 0);
	for (unsigned i = 0; i < 100 && now.free_bytes == MEMORY_BYTES; i++)
		CHECK(ask(&now, 2000));
	CHECK_EQ(now.free_bytes, MEMORY_BYTES - REGION_BYTES);
	end();
}

TEST(a_node_that_drains_says_so)
{
	struct load now = {0};

	begin(0);
	CHECK_EQ(open_load(PROBE_USER, NULL), 0);
	node_load_drain(load);
	for (unsigned i = 0; i < 100 && now.flags == 0; i++)
		CHECK(ask(&now, 2000));
	CHECK_EQ(now.flags, LOAD_DRAINING);
	end();
}

TEST(a_data_thread_that_is_long_at_work_is_seen_from_outside)
{
	static const uint8_t client[16] = "test";
	struct fabric_queue_options queue_options = {.depth = 4};
	struct fabric_capability capability;
	struct fabric_completion done;
	struct fabric_region *region;
	struct fabric_queue *queue;
	struct orca_report report;
	uint8_t page[4096];
	struct iovec iov = {page, sizeof(page)};
	struct fabric_transfer transfer = {.iov = &iov, .iov_count = 1};
	struct load now;
	char endpoint[64];

	begin(SLOW_NS);
	CHECK_EQ(open_load(PROBE_USER, NULL), 0);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &capability), 0);
	CHECK_EQ(fabric_queue_open(&queue_options, &queue), 0);
	snprintf(endpoint, sizeof(endpoint), "tcp:127.0.0.1:%u", data_server_port(server));
	CHECK_EQ(fabric_attach(
			 queue, endpoint, &capability, clock_now_ns() + 10 * NS_PER_S, &region),
		0);
	transfer.deadline_ns = clock_now_ns() + 10 * NS_PER_S;
	CHECK_EQ(fabric_post_read(region, &transfer), 0);
	do { /* while it is at work */
		CHECK(ask(&now, 2000));
	} while (now.delay_ns <= SLOW_NS / 8 && clock_now_ns() < transfer.deadline_ns);
	CHECK_LT(0, now.in_flight);
	CHECK_LT(SLOW_NS / 8, now.delay_ns);
	CHECK(node_load_report(load, &report));
	CHECK_LT(0, report.load.in_flight);
	CHECK_EQ(fabric_wait(queue, &done, 1, clock_now_ns() + 10 * NS_PER_S), 1);
	CHECK_EQ(done.status, 0);
	while (now.in_flight > 0 && clock_now_ns() < transfer.deadline_ns)
		CHECK(ask(&now, 2000));
	CHECK_EQ(now.in_flight, 0);
	fabric_queue_close(queue);
	end();
}

TEST(whoever_may_not_ask_gets_no_answer)
{
	struct load now;

	begin(0);
	CHECK_EQ(open_load(PROBE_USER, "10.0.0.0/8"), 0);
	CHECK(!ask(&now, 100));
	node_load_close(load);
	load = NULL;
	CHECK_EQ(open_load(PROBE_USER, "10.0.0.0/8,127.0.0.1"), 0);
	CHECK(ask(&now, 2000));
	node_load_close(load);
	load = NULL;
	CHECK_EQ(open_load(PROBE_USER, "not an address"), -EINVAL);
	end();
}

TEST(with_its_port_taken_a_node_works_without_probes)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct orca_report report;
	struct load now;

	begin(0);
	address.sin_port = htons(data_server_port(server));
	CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQ(open_load(PROBE_USER, NULL), 0);
	CHECK(!ask(&now, 50));
	CHECK(node_load_report(load, &report));
	CHECK_EQ(report.load.free_bytes, MEMORY_BYTES);
	CHECK(report.mem_utilization == 0);
	close(fd);
	end();
}

TEST(nobody_answers_when_nobody_shall)
{
	struct orca_report report;
	struct load now;

	begin(0);
	CHECK_EQ(open_load(PROBE_NONE, NULL), 0);
	/* Refused by the kernel, or silent. */
	CHECK(prober_send(prober, 0, 0, clock_now_ns()) <= 0);
	CHECK(!ask(&now, 50));
	CHECK(node_load_report(load, &report));
	end();
}

TEST(the_best_there_is_answers)
{
	struct load now;

	begin(0);
	CHECK_EQ(open_load(PROBE_AUTO, NULL), 0); /* the kernel with rights, the node without */
	for (unsigned i = 0; i < 3; i++) {
		CHECK(ask(&now, 2000));
		CHECK_EQ(now.free_bytes, MEMORY_BYTES);
		CHECK_EQ(now.flags, 0);
	}
	end();
}
