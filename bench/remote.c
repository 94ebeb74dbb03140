/*
 * bench/remote.c: the fabric by itself, to memory nodes of other machines: reads one at a time,
 * and batches of writes, one to each of k+m nodes. Figures 1 and 2 of the verbs fabric
 * (tests/rxe/figures.sh) hold it against ib_read_lat and ib_write_bw.
 *
 *   remote --nodes h1:7400,... --work read --bytes 4K --count 2000     p50, p99, ... of one read
 *   remote --nodes h1:7400,... --work write --ec 4+2 --count 200       bytes/s, parities counted
 *
 * A batch is what the evictor's 64 pages become: a write of 64/k pages for each column (--bytes: of
 * another size); the next one begins when all of them are stored. Reads compare what they read with
 * what was stored there before.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "bench/remote_node.h"
#include "rpc/fabric.h"

#define BATCH_PAGES 64u
#define OPERATION_NS (20 * NS_PER_S)
#define SPIN_NS (10 * NS_PER_MS)

enum work { WORK_READ, WORK_WRITE };
enum way { WAY_VERBS, WAY_TCP };

struct remote_options {
	struct bench_options common;
	struct option_code code;
	uint64_t bytes, count, warm_up, region_bytes;
	uint32_t work, way;
	char nodes[REMOTE_LIST_BYTES];
};

static const char *const work_names[] = {"read", "write", NULL};
static const char *const way_names[] = {"verbs", "tcp", NULL};
#define AT(member) .offset = offsetof(struct remote_options, member)
static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "nodes",
		.type = OPTION_STRING,
		AT(nodes),
		.size = REMOTE_LIST_BYTES,
		.argument = "HOST:PORT,...",
		.help = "memory nodes (what farmem-memnode --listen says)",
		.flag_only = true},
	{.name = "fabric",
		.type = OPTION_CHOICE,
		AT(way),
		.choices = way_names,
		.value = "verbs",
		.argument = "verbs|tcp",
		.help = "how nodes are reached",
		.flag_only = true},
	{.name = "work",
		.type = OPTION_CHOICE,
		AT(work),
		.choices = work_names,
		.value = "read",
		.argument = "read|write",
		.help = "reads from the first node, or batches of writes to K+M nodes",
		.flag_only = true},
	{.name = "ec",
		.type = OPTION_CODE,
		AT(code),
		.value = "4+2",
		.argument = "K+M",
		.help = "columns of a batch",
		.flag_only = true},
	{.name = "bytes",
		.type = OPTION_SIZE,
		AT(bytes),
		.max = FABRIC_OP_BYTES_MAX,
		.argument = "SIZE",
		.help = "of one read or write; 0: a page, or a column's share of 64 pages",
		.flag_only = true},
	{.name = "count",
		.type = OPTION_COUNT,
		AT(count),
		.min = 1,
		.value = "1000",
		.argument = "N",
		.help = "reads, or batches, to measure",
		.flag_only = true},
	{.name = "warm-up",
		.type = OPTION_COUNT,
		AT(warm_up),
		.value = "50",
		.argument = "N",
		.help = "reads or batches before them",
		.flag_only = true},
	{.name = "region",
		.type = OPTION_SIZE,
		AT(region_bytes),
		.min = FABRIC_OP_BYTES_MAX,
		.max = 1ull << 30,
		.value = "4M",
		.argument = "SIZE",
		.help = "bytes of the region on each node",
		.flag_only = true},
};
static const struct bench_program program = {"remote",
	"Reads and writes of the fabric by itself, to memory nodes of other machines.", specs,
	FM_ARRAY_COUNT(specs)};

static struct remote_options options;
static struct remote_node nodes[REMOTE_NODES_MAX];
static struct fabric_region *regions[REMOTE_NODES_MAX];
static struct fabric_queue *queue;
static struct bench_hist hist;
static uint8_t *content, *buffer; /* what the regions hold, and where reads land */
static unsigned nodes_count;

static int attach(void)
{
	struct fabric_queue_options queue_options = {.depth = 64, .spin_ns = SPIN_NS};

	content = mem_map(options.region_bytes);
	buffer = mem_map(FABRIC_OP_BYTES_MAX);
	if (content == NULL || buffer == NULL || fabric_queue_open(&queue_options, &queue) != 0)
		return bench_fail("no memory");
	for (uint64_t i = 0; i < options.region_bytes / 8; i++)
		((uint64_t *)(void *)content)[i] = bench_mix(i);
	fabric_memory(queue, content, options.region_bytes);
	fabric_memory(queue, buffer, FABRIC_OP_BYTES_MAX);
	for (unsigned i = 0; i < nodes_count; i++) {
		int error = fabric_attach(queue, nodes[i].endpoint, &nodes[i].capability,
			clock_now_ns() + OPERATION_NS, &regions[i]);
		if (error != 0)
			return bench_fail("%s: %s", nodes[i].endpoint, strerror(-error));
	}
	return 0;
}

static int post(unsigned node, bool write, uint64_t offset, uint64_t bytes)
{
	struct iovec iov = {write ? content + offset : buffer, bytes};
	struct fabric_transfer transfer = {.offset = offset,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + OPERATION_NS};

	return (write ? fabric_post_write : fabric_post_read)(regions[node], &transfer);
}

/* Until nothing is in flight. 0, or the first status that was not. */
static int reap(void)
{
	struct fabric_completion done[REMOTE_NODES_MAX];
	int status = 0;

	while (fabric_in_flight(queue) > 0) {
		unsigned count = fabric_wait(queue, done, REMOTE_NODES_MAX, CLOCK_NEVER_NS);
		for (unsigned i = 0; i < count; i++)
			status = status == 0 ? done[i].status : status;
	}
	return status;
}

static int write_batch(uint64_t offset)
{
	int status = 0;

	for (unsigned i = 0; i < nodes_count && status == 0; i++)
		status = post(i, true, offset, options.bytes);
	int reaped = reap();
	return status == 0 ? reaped : status;
}

static int run_reads(void)
{
	uint64_t places = options.region_bytes / options.bytes, random = 1;

	for (uint64_t at = 0; at < options.region_bytes; at += FM_PAGE_SIZE * 16)
		if (post(0, true, at, FM_PAGE_SIZE * 16) != 0 || reap() != 0)
			return bench_fail("a write failed");
	for (uint64_t i = 0; i < options.warm_up + options.count; i++) {
		uint64_t offset = bench_random_below(&random, places) * options.bytes;
		uint64_t start_ns = clock_now_ns();
		int status = post(0, false, offset, options.bytes);

		status = status == 0 ? reap() : status;
		if (i >= options.warm_up)
			bench_hist_record(&hist, clock_now_ns() - start_ns);
		if (status != 0)
			return bench_fail("a read failed: %s", strerror(-status));
		if (memcmp(buffer, content + offset, options.bytes) != 0)
			return bench_fail("a read gave wrong bytes");
	}
	return 0;
}

static int run_writes(uint64_t *took_ns)
{
	uint64_t places = options.region_bytes / options.bytes, start_ns = 0;

	for (uint64_t i = 0; i < options.warm_up + options.count; i++) {
		uint64_t begun_ns = clock_now_ns();
		if (i == options.warm_up)
			start_ns = begun_ns;
		int status = write_batch(i % places * options.bytes);

		if (status != 0)
			return bench_fail("a write failed: %s", strerror(-status));
		if (i >= options.warm_up)
			bench_hist_record(&hist, clock_now_ns() - begun_ns);
	}
	*took_ns = clock_now_ns() - start_ns;
	return 0;
}

static void report_print(uint64_t took_ns)
{
	struct bench_report report;

	bench_report_open(&report, program.name, options.common.json);
	bench_report_text(&report, "work", work_names[options.work]);
	bench_report_text(&report, "fabric", way_names[options.way]);
	bench_report_count(&report, "nodes", nodes_count);
	bench_report_count(&report, "bytes", options.bytes);
	bench_report_count(&report, "count", options.count);
	if (options.work == WORK_WRITE)
		bench_report_number(&report, "mb_per_s",
			(double)(options.count * nodes_count * options.bytes) * 1e3 /
				(double)took_ns);
	bench_report_hist(&report, "", &hist);
	bench_report_close(&report);
}

/* Sizes that the flags left open. False: said what is wrong. */
static bool sizes(void)
{
	bool writes = options.work == WORK_WRITE;

	nodes_count = writes ? options.code.k + options.code.m : 1;
	if (options.bytes == 0)
		options.bytes = writes ? BATCH_PAGES / options.code.k * FM_PAGE_SIZE : FM_PAGE_SIZE;
	if (options.common.tiny) {
		options.count = FM_MIN(options.count, (uint64_t)100);
		options.warm_up = FM_MIN(options.warm_up, (uint64_t)10);
	}
	options.region_bytes = FM_ALIGN_DOWN(options.region_bytes, (uint64_t)FM_PAGE_SIZE * 16);
	if (options.nodes[0] == '\0')
		bench_fail("--nodes is missing");
	return options.nodes[0] != '\0';
}

int main(int argc, char **argv)
{
	uint64_t took_ns = 0;
	int status = bench_parse(&program, &options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (!sizes())
		return BENCH_EXIT_USAGE;
	if (options.way == WAY_VERBS && fabric_load_verbs() != 0)
		return bench_skip("no RDMA here (see farmem doctor)");
	status = remote_open(
		nodes, nodes_count, options.nodes, options.way == WAY_VERBS, options.region_bytes);
	if (status != 0)
		return status;
	status = attach();
	if (status == 0)
		status = options.work == WORK_READ ? run_reads() : run_writes(&took_ns);
	fabric_queue_close(queue);
	remote_close(nodes, nodes_count);
	if (status == 0)
		report_print(took_ns);
	return status;
}
