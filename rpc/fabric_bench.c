/*
 * rpc/fabric_bench.c: what the fabric costs over what it stands on.
 *
 *   read 4 KiB at random offsets, one at a time:
 *       shm beside a bare pread of a memfd; tcp beside a bare ping-pong, both ends spinning
 *   write 64 KiB, 16 in flight:
 *       shm beside a bare pwrite; tcp beside a bare stream of 64 KiB pieces, each acknowledged
 *       with 32 bytes
 *
 * Interleaved in rounds in one run; only times of one run are comparable.
 *     fabric_bench [ROUNDS]     default 20; 1 is quick enough for a test
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "base/hist.h"
#include "rpc/fabric_node_test.h"
#include "rpc/wire.h"

#define REGION_BYTES (64ull << 20)
#define READ_BYTES 4096u
#define WRITE_BYTES 65536u
#define WRITES_DEPTH 16u
#define READS_PER_ROUND 5000
#define WRITES_PER_ROUND 1000

enum contestant { RAW_PREAD, SHM, RAW_TCP, TCP, CONTESTANTS };
static const char *const names[CONTESTANTS] = {"pread/pwrite", "shm", "tcp ping-pong", "tcp"};

struct side {
	struct hist read_ns;
	uint64_t write_ns, written_bytes;
};

static struct side sides[CONTESTANTS];
static uint8_t buffers[WRITES_DEPTH][WRITE_BYTES];
static int memfd, raw_socket;
static pid_t raw_server;
static struct fabric_queue *queue;
static struct fabric_region *regions[2]; /* NODE_SHM, NODE_TCP */
static uint64_t random_state = 88172645463325252ull;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fabric_bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t random_offset(uint32_t bytes)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % (REGION_BYTES / bytes) * bytes;
}

/* --- the bare rivals --- */

static void move_all(int fd, void *bytes, size_t length, bool out)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = out ? send(fd, (char *)bytes + done, length - done,
					  MSG_DONTWAIT | MSG_NOSIGNAL)
				: recv(fd, (char *)bytes + done, length - done, MSG_DONTWAIT);
		if (n == 0)
			_exit(0);
		must(n > 0 || errno == EAGAIN, "raw socket");
		done += n > 0 ? (size_t)n : 0;
	}
}

/* Answers each 32-byte request: with 32 + READ_BYTES, or after WRITE_BYTES more with 32. */
static void raw_serve(int listener)
{
	static uint8_t bytes[WRITE_BYTES];
	uint8_t header[WIRE_HEADER_BYTES];
	int one = 1;
	int fd = accept(listener, NULL, NULL);
	must(fd >= 0, "accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (;;) {
		move_all(fd, header, sizeof(header), false);
		if (header[0] == WIRE_READ) {
			move_all(fd, bytes, WIRE_HEADER_BYTES + READ_BYTES, true);
		} else {
			move_all(fd, bytes, WRITE_BYTES, false);
			move_all(fd, header, sizeof(header), true);
		}
	}
}

static pid_t raw_start(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int one = 1;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	must(!bind(listener, (struct sockaddr *)&address, length) && !listen(listener, 1),
		"listen");
	must(!getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		raw_serve(listener);
	}
	close(listener);
	raw_socket = socket(AF_INET, SOCK_STREAM, 0);
	must(!connect(raw_socket, (struct sockaddr *)&address, length), "connect");
	setsockopt(raw_socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return pid;
}

static void raw_read(void)
{
	uint8_t header[WIRE_HEADER_BYTES] = {WIRE_READ};
	static uint8_t reply[WIRE_HEADER_BYTES + READ_BYTES];
	move_all(raw_socket, header, sizeof(header), true);
	move_all(raw_socket, reply, sizeof(reply), false);
}

/* WRITES_DEPTH pieces ahead of their acknowledgements. */
static void raw_writes(void)
{
	static uint8_t acks[WRITES_DEPTH * WIRE_HEADER_BYTES];
	size_t acked = 0;
	for (unsigned i = 0; i < WRITES_PER_ROUND; i++) {
		uint8_t header[WIRE_HEADER_BYTES] = {WIRE_WRITE};
		struct iovec iov[2] = {
			{header, sizeof(header)}, {buffers[i % WRITES_DEPTH], WRITE_BYTES}};
		size_t total = sizeof(header) + WRITE_BYTES;
		while (i >= acked / WIRE_HEADER_BYTES + WRITES_DEPTH) {
			ssize_t n = recv(raw_socket, acks, sizeof(acks), MSG_DONTWAIT);
			acked += n > 0 ? (size_t)n : 0;
		}
		ssize_t n = writev(raw_socket, iov, 2);
		must(n == (ssize_t)total, "writev");
	}
	while (acked < WRITES_PER_ROUND * WIRE_HEADER_BYTES) {
		ssize_t n = recv(raw_socket, acks, sizeof(acks), MSG_DONTWAIT);
		acked += n > 0 ? (size_t)n : 0;
	}
}

/* --- the fabric --- */

static void fabric_reap(unsigned at_most_in_flight)
{
	struct fabric_completion done[WRITES_DEPTH];
	while (fabric_in_flight(queue) > at_most_in_flight) {
		unsigned n = fabric_wait(queue, done, WRITES_DEPTH, clock_now_ns() + 10 * NS_PER_S);
		for (unsigned i = 0; i < n; i++)
			must(done[i].status == 0, "operation");
		must(n > 0, "fabric_wait");
	}
}

static void fabric_one(struct fabric_region *region, bool write, unsigned buffer)
{
	const uint32_t bytes = write ? WRITE_BYTES : READ_BYTES;
	struct iovec iov = {buffers[buffer], bytes};
	struct fabric_transfer transfer = {.offset = random_offset(bytes),
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + 10 * NS_PER_S};
	must((write ? fabric_post_write : fabric_post_read)(region, &transfer) == 0, "post");
}

/* --- rounds --- */

static void read_one(enum contestant who)
{
	switch (who) {
	case RAW_PREAD:
		must(pread(memfd, buffers[0], READ_BYTES, (off_t)random_offset(READ_BYTES)) ==
				READ_BYTES,
			"pread");
		break;
	case RAW_TCP:
		raw_read();
		break;
	default:
		fabric_one(regions[who == TCP ? NODE_TCP : NODE_SHM], false, 0);
		fabric_reap(0);
	}
}

static void write_many(enum contestant who)
{
	if (who == RAW_TCP) {
		raw_writes();
		return;
	}
	for (unsigned i = 0; i < WRITES_PER_ROUND; i++) {
		if (who == RAW_PREAD) {
			must(pwrite(memfd, buffers[i % WRITES_DEPTH], WRITE_BYTES,
				     (off_t)random_offset(WRITE_BYTES)) == WRITE_BYTES,
				"pwrite");
			continue;
		}
		fabric_one(regions[who == TCP ? NODE_TCP : NODE_SHM], true, i % WRITES_DEPTH);
		fabric_reap(WRITES_DEPTH - 1);
	}
	fabric_reap(0);
}

static void round_of(enum contestant who)
{
	struct side *side = &sides[who];
	/* The rival's server spins for ever: out of the way while others are measured. */
	kill(raw_server, who == RAW_TCP ? SIGCONT : SIGSTOP);
	for (int i = 0; i < READS_PER_ROUND; i++) {
		uint64_t start = clock_now_ns();
		read_one(who);
		hist_record(&side->read_ns, clock_now_ns() - start);
	}
	uint64_t start = clock_now_ns();
	write_many(who);
	side->write_ns += clock_now_ns() - start;
	side->written_bytes += (uint64_t)WRITES_PER_ROUND * WRITE_BYTES;
}

static double side_rate(const struct side *side)
{
	return (double)side->written_bytes / (double)side->write_ns; /* bytes per ns = GB/s */
}

static void print_side(enum contestant who, enum contestant limit)
{
	const struct hist *h = &sides[who].read_ns, *l = &sides[limit].read_ns;
	printf("%-14s read us p50 %6.2f  p99 %6.2f  p99.9 %7.2f  max %8.1f", names[who],
		(double)hist_quantile(h, 0.5) / 1e3, (double)hist_quantile(h, 0.99) / 1e3,
		(double)hist_quantile(h, 0.999) / 1e3, (double)hist_quantile(h, 1) / 1e3);
	printf("  mean %6.2f   write GB/s %5.2f", hist_mean(h) / 1e3, side_rate(&sides[who]));
	if (who != limit)
		printf("   ratio: read mean %.2f  write %.2f", hist_mean(h) / hist_mean(l),
			side_rate(&sides[who]) / side_rate(&sides[limit]));
	printf("\n");
}

int main(int argc, char **argv)
{
	static struct node node;
	struct fabric_capability capability;
	struct fabric_queue_options options = {.depth = WRITES_DEPTH, .spin_ns = 100000};
	int rounds = argc > 1 ? atoi(argv[1]) : 20;
	for (unsigned i = 0; i < WRITES_DEPTH; i++)
		memset(buffers[i], (int)i + 1, WRITE_BYTES);
	memfd = memfd_create("raw", 0);
	must(memfd >= 0 && !fallocate(memfd, 0, 0, (off_t)REGION_BYTES), "memfd");
	node_start(&node, 0);
	raw_server = raw_start();
	must(!fabric_queue_open(&options, &queue), "queue");
	must(!node_reserve(&node, REGION_BYTES, &capability), "reserve");
	for (int i = 0; i < 2; i++)
		must(!fabric_attach(queue, node.endpoint[i], &capability,
			     clock_now_ns() + 5 * NS_PER_S, &regions[i]),
			"attach");
	printf("fabric_bench: rounds=%d reads=%d x %u B writes=%d x %u B depth=%u region=%llu "
	       "cpus=%ld\n",
		rounds, READS_PER_ROUND, READ_BYTES, WRITES_PER_ROUND, WRITE_BYTES, WRITES_DEPTH,
		REGION_BYTES, sysconf(_SC_NPROCESSORS_ONLN));
	for (int i = 0; i < rounds; i++)
		for (unsigned who = 0; who < CONTESTANTS; who++)
			round_of((enum contestant)who);
	print_side(RAW_PREAD, RAW_PREAD);
	print_side(SHM, RAW_PREAD);
	print_side(RAW_TCP, RAW_TCP);
	print_side(TCP, RAW_TCP);
	fabric_queue_close(queue);
	kill(raw_server, SIGKILL);
	return node_stop(&node);
}
