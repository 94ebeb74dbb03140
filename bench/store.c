/*
 * bench/store.c: figure 3's rate: swap-out as the evictor does it, from staged pages to the last
 * acknowledgement of k+m memory nodes, with the program at rest.
 *
 * One thread, the real spanset_store (records, CRCs, ISA-L, one write per column and batch) over
 * the shm fabric to k+m nodes in processes of their own, or over verbs or tcp to nodes of other
 * machines (--nodes). When the group is full, all spansets are
 * freed and it begins again; that is not timed. Rates count DATA bytes. Beside it, in the same
 * run, bench/store_control.c's plain loop is the control (bench/figures runs both, interleaved).
 */
#define TEST_MAIN_OWN
#include <string.h>

#include "base/mem.h"
#include "bench/bench.h"
#include "bench/remote_node.h"
#include "farmem/core_test.h"
#include "farmem/spanset.h"
#include "rpc/fabric_node_test.h"

#define ROUNDS 9
#define BATCH SPANSET_BATCH_PAGES

struct store_options {
	struct bench_options common;
	struct option_code code;
	uint64_t staging_bytes, region_bytes, batches;
	uint32_t way;
	char nodes[REMOTE_LIST_BYTES]; /* empty: nodes of its own */
};

enum way { WAY_VERBS, WAY_TCP };
static const char *const way_names[] = {"verbs", "tcp", NULL};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "ec",
		.type = OPTION_CODE,
		.offset = offsetof(struct store_options, code),
		.value = "4+2",
		.argument = "K+M",
		.help = "data and parity pieces",
		.flag_only = true},
	{.name = "staging",
		.type = OPTION_SIZE,
		.offset = offsetof(struct store_options, staging_bytes),
		.min = 1u << 18,
		.max = 1ull << 34,
		.value = "4M",
		.argument = "SIZE",
		.help = "data bytes the loop rotates through (the staging ring)",
		.flag_only = true},
	{.name = "region",
		.type = OPTION_SIZE,
		.offset = offsetof(struct store_options, region_bytes),
		.min = 1u << 20,
		.max = 1ull << 30,
		.value = "32M",
		.argument = "SIZE",
		.help = "bytes of each of the k+m regions",
		.flag_only = true},
	{.name = "batches",
		.type = OPTION_COUNT,
		.offset = offsetof(struct store_options, batches),
		.min = 1,
		.value = "2000",
		.argument = "N",
		.help = "batches of 64 pages per round",
		.flag_only = true},
	{.name = "nodes",
		.type = OPTION_STRING,
		.offset = offsetof(struct store_options, nodes),
		.size = REMOTE_LIST_BYTES,
		.argument = "HOST:PORT,...",
		.help = "memory nodes of other machines; without it k+m nodes here, over shm",
		.flag_only = true},
	{.name = "fabric",
		.type = OPTION_CHOICE,
		.offset = offsetof(struct store_options, way),
		.choices = way_names,
		.value = "verbs",
		.argument = "verbs|tcp",
		.help = "how --nodes are reached",
		.flag_only = true},
};
static const struct bench_program program = {"store",
	"GB/s of swap-out over shm, the program at rest (figure 3).", specs, FM_ARRAY_COUNT(specs)};

struct store {
	struct store_options options;
	struct core core;
	struct node nodes[EC_N_MAX];
	struct remote_node remote[EC_N_MAX];
	struct spanset_io *io;
	uint8_t *staging;
	uint64_t staging_pages;
	struct ssid *stored; /* in the group now */
	uint64_t stored_count;
	double ns[ROUNDS];
};

static bool is_remote(const struct store *s)
{
	return s->options.nodes[0] != '\0';
}

/* A region on node i: of this machine, or of another. 0, or -errno. */
static int node_lend(struct store *s, unsigned i, char *endpoint, size_t size,
	struct fabric_capability *capability)
{
	if (is_remote(s)) {
		snprintf(endpoint, size, "%s", s->remote[i].endpoint);
		*capability = s->remote[i].capability;
		return 0;
	}
	node_start(&s->nodes[i], 0);
	snprintf(endpoint, size, "%s", s->nodes[i].endpoint[NODE_SHM]);
	return node_reserve(&s->nodes[i], s->options.region_bytes, capability);
}

static void nodes_end(struct store *s)
{
	unsigned n = s->options.code.k + s->options.code.m;

	if (is_remote(s)) {
		spanset_io_close(s->io);
		remote_close(s->remote, n);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		node_kill(&s->nodes[i]);
}

static int setup(struct store *s)
{
	unsigned k = s->options.code.k, n = k + s->options.code.m;
	uint32_t slots = (uint32_t)(s->options.region_bytes / FM_PAGE_SIZE);
	struct spanset_io_options io = {.name = "bench",
		.fetch_deadline_ns = NS_PER_S,
		.store_deadline_ns = 2 * NS_PER_S,
		.stores = true};

	core_test_open(&s->core, &(struct core_test_options){.k = k,
					 .m = s->options.code.m,
					 .records_max = 2 * slots,
					 .region_bytes = s->options.region_bytes});
	core_test_group(&s->core, 0, k, s->options.code.m, slots);
	for (unsigned i = 0; i < n; i++) {
		struct catalog_node *node = &s->core.catalog.nodes[i];
		struct catalog_place *place = catalog_cur(&s->core.catalog.groups[0].columns[i]);
		node->host = i;
		atomic_store(&node->state, NODE_UP);
		place->node = (uint16_t)i;
		if (node_lend(s, i, node->endpoint, sizeof(node->endpoint), &place->capability) !=
			0)
			return bench_fail("a node cannot lend %llu bytes",
				(unsigned long long)s->options.region_bytes);
	}
	s->staging_pages = FM_MAX((uint64_t)BATCH, s->options.staging_bytes / FM_PAGE_SIZE);
	s->staging = mem_map(s->staging_pages * FM_PAGE_SIZE);
	s->stored = mem_map((uint64_t)slots * sizeof(*s->stored));
	if (s->staging == NULL || s->stored == NULL || spanset_io_open(&s->core, &io, &s->io) != 0)
		return bench_fail("no memory");
	for (uint64_t i = 0; i < s->staging_pages * FM_PAGE_SIZE / 8; i++)
		((uint64_t *)(void *)s->staging)[i] = bench_mix(i);
	return 0;
}

/* What a program does by freeing: every reference goes, then the records, then the slots. */
static void empty_group(struct store *s)
{
	for (uint64_t i = 0; i < s->stored_count; i++)
		for (unsigned pos = 0; pos < s->options.code.k; pos++)
			record_clear_live(&s->core, s->stored[i], pos);
	s->stored_count = 0;
	(void)record_reclaim(&s->core);
	(void)record_reclaim(&s->core); /* the limbo, a moment later */
}

/* Nanoseconds spent storing, or -1. */
static double run_round(struct store *s)
{
	struct spanset_item items[BATCH];
	uint64_t spent_ns = 0;

	for (uint64_t batch = 0; batch < s->options.batches; batch++) {
		for (unsigned i = 0; i < BATCH; i++)
			items[i] = (struct spanset_item){.page = i,
				.bytes = s->staging +
					 (batch * BATCH + i) % s->staging_pages * FM_PAGE_SIZE};
		uint64_t start_ns = clock_now_ns();
		int rc = spanset_store(s->io, items, BATCH);
		spent_ns += clock_now_ns() - start_ns;
		if (rc == -ENOSPC) {
			empty_group(s);
			batch--;
			continue;
		}
		if (rc != 0)
			return -1;
		for (unsigned i = 0; i < BATCH; i++)
			if (items[i].pos == 0)
				s->stored[s->stored_count++] = items[i].ssid;
	}
	return (double)spent_ns;
}

int main(int argc, char **argv)
{
	static struct store s;
	struct bench_report report;
	char code[16];
	int status = bench_parse(&program, &s.options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (s.options.common.tiny) {
		s.options.region_bytes = 1u << 22;
		s.options.batches = 100;
	}
	/* Every position holds a page, so that freeing is one loop. */
	if (BATCH % s.options.code.k != 0)
		return bench_fail("k must divide %u", BATCH);
	if (is_remote(&s)) {
		if (s.options.way == WAY_VERBS && fabric_load_verbs() != 0)
			return bench_skip("no RDMA here (see farmem doctor)");
		status = remote_open(s.remote, s.options.code.k + s.options.code.m, s.options.nodes,
			s.options.way == WAY_VERBS, s.options.region_bytes);
		if (status != 0)
			return status;
	}
	status = setup(&s);
	for (unsigned round = 0; status == 0 && round <= ROUNDS; round++) {
		double ns = run_round(&s);
		if (ns < 0)
			status = bench_fail("a batch could not be stored");
		else if (round > 0) /* the first touches the regions' pages */
			s.ns[round - 1] = ns;
	}
	nodes_end(&s);
	if (status != 0)
		return status;
	bench_report_open(&report, program.name, s.options.common.json);
	options_format(&specs[2], &s.options, code, sizeof(code));
	bench_report_text(&report, "ec", code);
	bench_report_count(&report, "region_bytes", s.options.region_bytes);
	bench_report_number(&report, "store_gb_per_s",
		(double)(s.options.batches * BATCH * FM_PAGE_SIZE) / bench_median(s.ns, ROUNDS));
	bench_report_close(&report);
	return 0;
}
