/*
 * farmem/cluster_test.h: a core, real memory nodes in other processes, groups on them, and batches
 * that are stored and fetched, for spanset_test.c and scheme_test.c. One cluster at a time.
 */
#ifndef FM_FARMEM_CLUSTER_TEST_H
#define FM_FARMEM_CLUSTER_TEST_H

#include "farmem/lane.h"
#include "farmem/core_test.h"

#include "base/crc.h"
#include "farmem/hedge.h"
#include "farmem/scheme.h"
#include "farmem/slow_node_test.h"
#include "farmem/spanset.h"
#include "rpc/fabric_node_test.h"

#define NODES_MAX 12u
#define REGION_BYTES (2u << 20)
#define BATCH SPANSET_BATCH_PAGES

static int transport;
static struct node nodes[NODES_MAX];
static unsigned nodes_count;
static struct slow_node slow[NODES_MAX]; /* what stands before them, in the cases that want it */
static struct core core;
static struct spanset_io *io;
static uint32_t scheme; /* of the next cluster */
static uint8_t *pages;  /* BATCH of them: what was stored last */
static struct spanset_item items[BATCH];

/* ---- a cluster of k+m nodes, one group ---- */

static inline void node_boot(unsigned i)
{
	struct node made = {0};
	node_start(&made, 0);
	nodes[i] = made;
	struct catalog_node *n = &core.catalog.nodes[i];
	snprintf(n->name, sizeof(n->name), "node-%u", i);
	snprintf(n->endpoint, sizeof(n->endpoint), "%s", nodes[i].endpoint[transport]);
	n->host = i;
	atomic_store(&n->state, NODE_UP);
}

static inline void group_make(uint32_t group, unsigned k, unsigned m, unsigned first_node)
{
	uint32_t slot_bytes = scheme == SCHEME_SPLIT ? FM_PAGE_SIZE / k : FM_PAGE_SIZE;
	core_test_group(&core, group, k, m, REGION_BYTES / slot_bytes);
	for (unsigned pos = 0; pos < k + m; pos++) {
		struct catalog_place *c = catalog_cur(&core.catalog.groups[group].columns[pos]);
		c->node = (uint16_t)((first_node + pos) % nodes_count);
		CHECK_EQ(node_reserve(&nodes[c->node], REGION_BYTES, &c->capability), 0);
	}
}

static inline void io_open(void)
{
	struct spanset_io_options options = {.name = "test",
		.spin_ns = 20000,
		.fetch_deadline_ns = NS_PER_S,
		.store_deadline_ns = 2 * NS_PER_S,
		.stores = true,
		.hedges = true};
	CHECK_EQ(spanset_io_open(&core, &options, &io), 0);
}

static inline void begin(unsigned k, unsigned m, unsigned count)
{
	core_test_open(&core, &(struct core_test_options){.k = k,
				      .m = m,
				      .scheme = scheme,
				      .records_max = 1024,
				      .region_bytes = REGION_BYTES});
	nodes_count = count;
	for (unsigned i = 0; i < count; i++)
		node_boot(i);
	group_make(0, k, m, 0);
	io_open();
}

static inline void end(void)
{
	spanset_io_close(io);
	for (unsigned i = 0; i < nodes_count; i++) {
		node_kill(&nodes[i]);
		if (slow[i].pid > 0)
			slow_node_stop(&slow[i]);
	}
	core_test_close(&core);
}

/* A shm client looks for its node's end once in a millisecond: until then the dead still answer. */
static inline void lose(unsigned i)
{
	node_kill(&nodes[i]);
	uint64_t until = clock_now_ns() + 2 * NS_PER_MS;
	while (transport == NODE_SHM && clock_now_ns() < until)
		clock_pause(until);
}

/* As the agent does it, sooner or later. */
static inline void write_off(unsigned node)
{
	for (uint32_t g = 0; g < core.catalog.header->groups_count; g++)
		for (unsigned pos = 0; pos < EC_N_MAX; pos++)
			if (catalog_column_node(&core.catalog.groups[g].columns[pos]) == node)
				atomic_store(&core.catalog.groups[g].columns[pos].lost, 1);
	atomic_store(&core.catalog.nodes[node].state, NODE_DOWN);
}

/* ---- batches ---- */

static inline void fill(unsigned count, uint64_t seed)
{
	uint64_t random = seed;
	for (unsigned i = 0; i < count * FM_PAGE_SIZE / 8; i++)
		((uint64_t *)(void *)pages)[i] = test_random(&random);
	for (unsigned i = 0; i < count; i++)
		items[i] = (struct spanset_item){
			.page = 100 + i, .bytes = pages + (size_t)i * FM_PAGE_SIZE};
}

static inline int store(unsigned count, uint64_t seed)
{
	fill(count, seed);
	return spanset_store(io, items, count);
}

/* On a busy machine a node may miss a deadline: the agent's word makes it good again. */
static inline int store_well(unsigned count, uint64_t seed)
{
	uint64_t give_up = clock_now_ns() + 20 * NS_PER_S;
	int rc;
	while ((rc = store(count, seed)) != 0 && clock_now_ns() < give_up) {
		for (unsigned i = 0; i < nodes_count; i++)
			atomic_store(&core.catalog.nodes[i].state, NODE_UP);
		clock_pause(give_up);
	}
	return rc;
}

static inline void fetch_begin(unsigned i)
{
	struct spanset_fetch *f =
		spanset_fetch_begin(io, items[i].page, items[i].ssid, items[i].pos);
	CHECK(f != NULL);
	f->user = i;
}

/* Ends every fetch that was begun; status as wanted, and then the bytes as stored. */
static inline unsigned fetch_all(unsigned count, int wanted)
{
	unsigned degraded = 0;
	uint64_t give_up = clock_now_ns() + 20 * NS_PER_S;
	spanset_fetch_submit(io);
	for (unsigned done = 0; done < count; done++) {
		struct spanset_fetch *f = spanset_fetch_poll(io, give_up);
		CHECK(f != NULL);
		CHECK_EQ(f->status, wanted);
		if (wanted == 0)
			CHECK(memcmp(f->bytes, items[f->user].bytes, FM_PAGE_SIZE) == 0);
		degraded += f->was_degraded;
		spanset_fetch_end(io, f);
	}
	CHECK_EQ(spanset_fetches(io), 0);
	return degraded;
}

static inline unsigned fetch_batch(unsigned count, int wanted)
{
	for (unsigned i = 0; i < count; i++)
		fetch_begin(i);
	return fetch_all(count, wanted);
}

static inline void forget_batch(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		record_clear_live(&core, items[i].ssid, items[i].pos);
	(void)record_reclaim(&core);
}

/* Overwrites one stored slot behind everybody's back. */
static inline void spoil(const struct spanset_item *item)
{
	struct record r = record_at(&core, item->ssid);
	uint32_t group = record_hdr_group(record_load(r));
	const struct catalog_place *c = catalog_cur(&core.catalog.groups[group].columns[item->pos]);
	static uint8_t junk[FM_PAGE_SIZE];
	struct fabric_queue_options queue_options = {.depth = 4};
	struct fabric_completion done;
	struct fabric_queue *queue;
	struct fabric_region *region;
	memset(junk, 0xee, sizeof(junk));
	uint32_t slot_bytes = scheme_slot_bytes(&core.catalog, &core.catalog.groups[group]);
	struct iovec iov = {junk, slot_bytes};
	uint64_t deadline = clock_now_ns() + 5 * NS_PER_S;
	CHECK_EQ(fabric_queue_open(&queue_options, &queue), 0);
	CHECK_EQ(fabric_attach(queue, core.catalog.nodes[c->node].endpoint, &c->capability,
			 deadline, &region),
		0);
	struct fabric_transfer t = {.offset = (uint64_t)record_slot(r, item->pos) * slot_bytes,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = deadline};
	CHECK_EQ(fabric_post_write(region, &t), 0);
	CHECK_EQ(fabric_wait(queue, &done, 1, deadline), 1);
	CHECK_EQ(done.status, 0);
	fabric_queue_close(queue);
}

/* ---- slow nodes ---- */

#define SLOW_NS (60 * NS_PER_MS) /* far above what a busy machine makes of a read */

static inline uint64_t stat_of(const _Atomic uint64_t *counter)
{
	return atomic_load(counter);
}
#define STAT(name) stat_of(&core.catalog.stats->name)

/* Reads one page as a fault does; returns what it took. */
static inline uint64_t fault(unsigned i)
{
	uint64_t begun = clock_now_ns();
	struct spanset_fetch *f =
		spanset_fetch_begin(io, items[i].page, items[i].ssid, items[i].pos);
	CHECK(f != NULL);
	f->user = i;
	f->demand = true;
	CHECK_EQ(fetch_all(1, 0), 0);
	return clock_now_ns() - begun;
}

/* The index-th item of a position. */
static inline unsigned item_at(unsigned pos, unsigned index)
{
	for (unsigned i = 0; i < BATCH; i++)
		if (items[i].pos == pos && index-- == 0)
			return i;
	CHECK(false);
	return 0;
}

/* A cluster whose nodes can be made slow, a batch on it, and latencies learned. */
static inline void begin_slow(unsigned count)
{
	if (transport != NODE_TCP)
		TEST_SKIP("a read over shm or verbs cannot be made slow by the node");
	core_test_open(&core, &(struct core_test_options){.k = 4,
				      .m = 2,
				      .scheme = scheme,
				      .records_max = 1024,
				      .region_bytes = REGION_BYTES});
	nodes_count = count;
	for (unsigned i = 0; i < count; i++) {
		node_boot(i);
		slow_node_start(&slow[i], nodes[i].port);
		snprintf(core.catalog.nodes[i].endpoint, sizeof(core.catalog.nodes[i].endpoint),
			"tcp:127.0.0.1:%u", slow[i].port);
	}
	group_make(0, 4, 2, 0);
	io_open();
	CHECK_EQ(store_well(BATCH, 90), 0);
	for (unsigned round = 0; round < 4; round++)
		for (unsigned i = 0; i < BATCH; i++)
			(void)fault(i);
	/* On a busy machine some of these were late. */
	while (spanset_lingering(io) > 0)
		CHECK(spanset_fetch_poll(io, clock_now_ns() + NS_PER_S) == NULL);
}

static inline void slow_down(unsigned node, uint64_t delay_ns)
{
	atomic_store(slow[node].delay_ns, delay_ns);
}

static inline bool is_slow(unsigned node)
{
	return hedge_node_slow(&core, node);
}

static inline int cluster_main(int argc, char **argv)
{
	transport = argc < 2 ? -1 : node_transport(argv[1]);
	if (transport < 0) {
		printf("usage: %s shm|tcp|verbs [WORD]\n", argv[0]);
		return 2;
	}
	if (transport == NODE_VERBS && !node_has_verbs())
		return TEST_EXIT_SKIP;
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	pages = calloc(BATCH, FM_PAGE_SIZE);
	return test_main(argc - 1, argv + 1);
}

#endif
