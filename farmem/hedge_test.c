/*
 * farmem/hedge_test.c: which node passes for slow, when a read is late, how many tokens there are;
 * with made-up latencies and a made-up clock.
 */
#include "farmem/core_test.h"

#include "base/clock.h"
#include "base/log.h"
#include "farmem/hedge.h"

#define USUAL_NS (30 * NS_PER_US)

static struct core core;
static struct hedge hedge;
static uint64_t now_ns;

/* One group of 4+2 on nodes 0..5. */
static void begin(void)
{
	core_test_open(&core, &(struct core_test_options){
				      .k = 4, .m = 2, .records_max = 64, .region_bytes = 1 << 20});
	core_test_group(&core, 0, 4, 2, 256);
	for (unsigned pos = 0; pos < 6; pos++) {
		catalog_cur(&core.catalog.groups[0].columns[pos])->node = (uint16_t)pos;
		atomic_store(&core.catalog.nodes[pos].state, NODE_UP);
	}
	memset(&hedge, 0, sizeof(hedge));
	hedge_open(&hedge);
	now_ns = NS_PER_S;
	log_set_level(LOG_ERROR);
}

static struct hedge_read from(unsigned node)
{
	return (struct hedge_read){.pos = node, .node = node, .pages = 1, .begun_ns = now_ns};
}

/* One read after the other. */
static void came(unsigned node, uint64_t took_ns)
{
	struct hedge_read read = from(node);
	now_ns += took_ns;
	hedge_learn(&hedge, &core, &read, now_ns);
}

static void warm(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++)
		for (unsigned node = 0; node < 6; node++)
			came(node, USUAL_NS);
}

static bool slow(unsigned node)
{
	return hedge_node_slow(&core, node);
}

static void make_slow(unsigned node)
{
	for (unsigned i = 0; !slow(node) && i < HEDGE_SLOW_AT; i++)
		came(node, 50 * USUAL_NS);
	CHECK(slow(node));
}

static void after_pause(unsigned node)
{
	now_ns = atomic_load(&core.catalog.nodes[node].slow_until_ns);
}

static void probe(unsigned node, uint64_t took_ns)
{
	struct hedge_read read = from(node);
	CHECK_EQ(hedge_choose(&hedge, &core, node, now_ns), HEDGE_PROBE);
	CHECK_EQ(hedge_choose(&hedge, &core, node, now_ns), HEDGE_AROUND); /* one at a time */
	now_ns += took_ns;
	hedge_probed(&hedge, &core, &read, now_ns, true);
}

TEST(a_read_is_late_when_the_others_would_have_come_long_ago)
{
	struct hedge_read read;
	begin();
	read = from(2);
	CHECK_EQ(hedge_after(&hedge, &core, &read), HEDGE_BLIND_NS); /* nothing is known */
	warm(20);
	uint64_t after = hedge_after(&hedge, &core, &read);
	CHECK_EQ(after, FM_MAX(HEDGE_USUAL_FACTOR * USUAL_NS, HEDGE_FLOOR_NS));
	/* what the node itself takes does not count */
	for (unsigned i = 0; i < 6; i++)
		came(2, 50 * USUAL_NS);
	CHECK_EQ(hedge_after(&hedge, &core, &read), after);
	read.pages = 9;
	CHECK_EQ(hedge_after(&hedge, &core, &read), after + 8 * HEDGE_PAGE_NS);
	core_test_close(&core);
}

TEST(two_reads_in_a_hundred_earn_a_token)
{
	unsigned spent = 0;
	begin();
	for (unsigned i = 0; i < 100000; i++) {
		hedge_earn(&hedge);
		spent += hedge_spend(&hedge);
	}
	CHECK_LE(spent, 100000 / HEDGE_READS_PER_TOKEN + HEDGE_BURST);
	CHECK_LE(100000 / HEDGE_READS_PER_TOKEN, spent);
	for (unsigned i = 0; i < 100000; i++) /* saved up: no more than a burst */
		hedge_earn(&hedge);
	for (spent = 0; hedge_spend(&hedge);)
		spent++;
	CHECK_EQ(spent, HEDGE_BURST);
	core_test_close(&core);
}

TEST(a_node_fifty_times_slower_is_found_within_its_next_eight_reads)
{
	unsigned reads = 0;
	begin();
	warm(20);
	for (; !slow(3) && reads < 100; reads++) {
		came(3, 50 * USUAL_NS);
		came(1, USUAL_NS);
	}
	CHECK_EQ(reads, HEDGE_SLOW_AT / HEDGE_POINTS);
	core_test_close(&core);
}

TEST(a_node_that_is_late_now_and_then_is_not_slow)
{
	begin();
	warm(20);
	for (unsigned i = 0; i < 10000; i++)
		came(3, i % 4 == 0 ? 50 * USUAL_NS : USUAL_NS);
	CHECK(!slow(3));
	core_test_close(&core);
}

TEST(one_stall_gives_one_point_however_many_reads_it_caught)
{
	struct hedge_read caught[64];
	begin();
	warm(20);
	for (unsigned i = 0; i < 64; i++)
		caught[i] = from(3);
	now_ns += NS_PER_S;
	for (unsigned i = 0; i < 64; i++) {
		hedge_beaten(&hedge, &core, &caught[i], now_ns);
		hedge_learn(&hedge, &core, &caught[i], now_ns);
	}
	CHECK(!slow(3));
	core_test_close(&core);
}

TEST(a_machine_that_becomes_busy_makes_nobody_slow)
{
	begin();
	warm(100);
	for (unsigned i = 0; i < 100; i++)
		for (unsigned node = 0; node < 6; node++)
			came(node, 50 * USUAL_NS);
	for (unsigned node = 0; node < 6; node++)
		CHECK(!slow(node));
	core_test_close(&core);
}

TEST(a_slow_node_is_gone_around_probed_after_its_pause_and_well_after_fast_ones)
{
	begin();
	warm(20);
	make_slow(3);
	CHECK(hedge_group_slow(&core, 0, now_ns));
	CHECK_EQ(hedge_choose(&hedge, &core, 3, now_ns), HEDGE_AROUND);
	after_pause(3);
	CHECK(!hedge_group_slow(&core, 0, now_ns));
	for (unsigned i = 0; i < HEDGE_PROBES_WELL; i++) {
		CHECK(slow(3));
		probe(3, USUAL_NS);
	}
	CHECK(!slow(3));
	CHECK_EQ(hedge_choose(&hedge, &core, 3, now_ns), HEDGE_DIRECT);
	core_test_close(&core);
}

TEST(each_slow_probe_doubles_the_pause_up_to_a_bound)
{
	uint64_t pause, expected = HEDGE_PAUSE_MIN_NS;
	begin();
	warm(20);
	make_slow(3);
	for (unsigned i = 0; i < 12; i++) {
		pause = atomic_load(&core.catalog.nodes[3].slow_until_ns) - now_ns;
		CHECK_EQ(pause, expected);
		expected = FM_MIN(2 * expected, HEDGE_PAUSE_MAX_NS);
		after_pause(3);
		for (unsigned n = 0; n < HEDGE_READS_PER_TOKEN; n++)
			hedge_earn(&hedge);
		probe(3, USUAL_NS); /* one fast one is not enough */
		for (unsigned n = 0; n < HEDGE_READS_PER_TOKEN; n++)
			hedge_earn(&hedge);
		probe(3, 50 * USUAL_NS);
	}
	CHECK_EQ(expected, HEDGE_PAUSE_MAX_NS);
	core_test_close(&core);
}

TEST(a_node_that_was_well_for_long_is_forgiven)
{
	begin();
	warm(20);
	for (unsigned i = 0; i < 3; i++) {
		make_slow(3);
		uint64_t pause = atomic_load(&core.catalog.nodes[3].slow_until_ns) - now_ns;
		CHECK_EQ(pause, i == 1 ? 2 * HEDGE_PAUSE_MIN_NS : HEDGE_PAUSE_MIN_NS);
		after_pause(3);
		for (unsigned n = 0; n < HEDGE_PROBES_WELL; n++)
			probe(3, USUAL_NS);
		CHECK(!slow(3));
		if (i == 1)
			now_ns += HEDGE_FORGIVE_NS;
		for (unsigned n = 0; n < HEDGE_BURST * HEDGE_READS_PER_TOKEN; n++)
			hedge_earn(&hedge);
	}
	core_test_close(&core);
}

TEST(a_way_around_needs_k_others_that_are_up_and_not_slow)
{
	begin();
	CHECK(hedge_has_others(&core, 0, 3));
	atomic_store(&core.catalog.nodes[0].state, NODE_SUSPECT);
	CHECK(hedge_has_others(&core, 0, 3)); /* four are left */
	atomic_store(&core.catalog.groups[0].columns[1].lost, 1);
	CHECK(!hedge_has_others(&core, 0, 3));
	atomic_store(&core.catalog.nodes[0].state, NODE_UP);
	CHECK(hedge_has_others(&core, 0, 3));
	atomic_store(&core.catalog.nodes[5].slow_until_ns, 1);
	CHECK(!hedge_has_others(&core, 0, 3));
	core_test_close(&core);
}
