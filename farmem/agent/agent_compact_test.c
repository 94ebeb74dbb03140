/*
 * farmem/agent/agent_compact_test.c: half-empty spansets become whole ones: real agent, real nodes,
 * and a runtime played by this program, with the real merge.c, that has really stored pages and
 * given back most of them. Nodes and the agent's worker are killed on the way; every page that is
 * left is read back and compared, and no slot may be lost.
 */
#include "farmem/agent/audit.h"
#include "farmem/merge.h"

/* Last: it has a `core` of its own. */
#include "farmem/agent/agent_fake_store.h"

#define SMALL_PAGES 4096u

static struct stripe evictor;
static unsigned living;

/* ---- the runtime ---- */

static void on_merges(struct core *c)
{
	(void)c;
	say(runtime, MAILBOX_MERGES, 0);
}

static struct span_word word_of(uint32_t page)
{
	return span_load(core.catalog.words, (struct page_id){page});
}

static void set_word(uint32_t page, struct span_word w)
{
	atomic_store_explicit(&core.catalog.words[page], w.v, memory_order_release);
}

/* Stores pages, and gives back those of them that a swap-in would have taken. */
static void store_holes(unsigned k, unsigned m, const char *config, unsigned pages)
{
	uint64_t random = 42;
	store_begin(k, m, config);
	memset(&evictor, 0, sizeof evictor);
	evictor.core = &core;
	core.report_merges = on_merges;
	store_pages(pages);
	for (uint32_t page = 0; page < pages_count; page++)
		set_word(page,
			span_at(span_make(SPAN_FAR, 0, 1), places[page].ssid.v, places[page].pos));
	living = pages_count;
	for (uint32_t page = 0; page < pages_count; page++) {
		if (test_random(&random) % 2 != 0)
			continue;
		set_word(page, span_make(SPAN_EMPTY, 0, 2));
		record_clear_live(&core, places[page].ssid, places[page].pos);
		living--;
	}
	(void)record_reclaim(&core);
}

/* An evictor between two batches. */
static void runtime_round(void)
{
	merge_call(&core);
	for (unsigned i = 0; i < 8; i++)
		(void)merge_round(&evictor);
	(void)record_reclaim(&core);
}

static uint64_t positions_used(void)
{
	uint64_t used = 0;
	for (unsigned g = 0; g < core.catalog.header->groups_count; g++)
		used += atomic_load(&core.catalog.groups[g].columns[0].used);
	return used * core.catalog.header->code_k;
}

/* Dead space is below so many percent. */
static bool is_dense(struct runtime *r, uint64_t percent)
{
	(void)r;
	runtime_round();
	uint64_t used = positions_used();
	return used > 0 && 100 * (used - FM_MIN(used, (uint64_t)living)) <= percent * used;
}

static bool is_settled(struct runtime *r, uint64_t unused)
{
	(void)r;
	(void)unused;
	runtime_round();
	return !merge_pending(&core);
}

static bool has_merged(struct runtime *r, uint64_t pairs)
{
	(void)r;
	runtime_round();
	return counter(&core.catalog.stats->merged_pairs) >= pairs;
}

/* ---- what must hold ---- */

/* Every page that is left; the words say where. Returns how many were read around a loss. */
static unsigned read_living(void)
{
	static uint8_t expected[FM_PAGE_SIZE];
	unsigned degraded = 0, read = 0;
	for (uint32_t page = 0; page < pages_count; page++) {
		struct span_word w = word_of(page);
		if (span_state(w) != SPAN_FAR)
			continue;
		struct spanset_fetch *fetch =
			spanset_fetch_begin(io, page, ssid_make(span_ssid(w)), span_pos(w));
		CHECK(fetch != NULL);
		spanset_fetch_submit(io);
		fetch = spanset_fetch_poll(io, clock_now_ns() + WAIT_NS);
		CHECK(fetch != NULL);
		CHECK_EQ(fetch->status, 0);
		page_fill(page, expected);
		CHECK(memcmp(fetch->bytes, expected, FM_PAGE_SIZE) == 0);
		degraded += fetch->was_degraded;
		spanset_fetch_end(io, fetch);
		read++;
		spanset_io_maintain(io);
	}
	CHECK_EQ(read, living);
	return degraded;
}

/* In each column as many slots are in use as there are spansets in its group: none is lost. Those
 * in the limbo are on their way. */
static bool are_slots_kept(struct runtime *r, uint64_t unused)
{
	static uint32_t sets[CATALOG_GROUPS_MAX];
	uint32_t records = column_records(&core.catalog), group;
	if (!is_settled(r, unused))
		return false;
	memset(sets, 0, sizeof sets);
	for (uint32_t ssid = 0; ssid < records; ssid++)
		if (column_record_group(&core.catalog, ssid, &group))
			sets[group]++;
	for (unsigned g = 0; g < core.catalog.header->groups_count; g++) {
		const struct catalog_group *entry = &core.catalog.groups[g];
		for (unsigned p = 0; p < (unsigned)entry->k + entry->m; p++)
			if (atomic_load(&entry->columns[p].used) != sets[g])
				return false;
	}
	return true;
}

static void say_slots(void)
{
	for (unsigned g = 0; g < core.catalog.header->groups_count; g++) {
		const struct catalog_group *entry = &core.catalog.groups[g];
		for (unsigned p = 0; p < (unsigned)entry->k + entry->m; p++)
			printf("     group %u position %u: %u slots in use\n", g, p,
				atomic_load(&entry->columns[p].used));
	}
}

/* As `farmem inspect` sees it. */
static void check_books(void)
{
	static struct audit audit;
	CHECK_EQ(audit_open(&audit, &core.catalog), 0);
	CHECK_EQ(audit_look(&audit), 0);
	for (unsigned kind = 0; kind < AUDIT_KINDS; kind++)
		CHECK_EQ(audit.counts[kind], 0);
	audit_close(&audit);
}

/* No merge is under way any more, and what was stored is there. */
static void check_settled(void)
{
	bool kept = pump(runtime, are_slots_kept, 0);
	if (!kept)
		say_slots();
	CHECK(kept);
	check_books();
	(void)read_living();
}

/* The agent would go on merging what a case goes on to look at. */
static void holes_end(void)
{
	memset(core.catalog.words, 0, 8ull * pages_count);
	store_end();
}

/* ---- cases ---- */

static void merge_all(const char *config)
{
	store_holes(4, 2, config, 2 * SMALL_PAGES);
	CHECK(pump(runtime, is_dense, 12));
	CHECK_EQ(atomic_load(&core.catalog.header->compacting), 1);
	check_settled();
	printf("     %llu pairs, %llu given up, %llu of 100 positions dead, %.2f partials for each "
	       "slot "
	       "freed\n",
		(unsigned long long)counter(&core.catalog.stats->merged_pairs),
		(unsigned long long)counter(&core.catalog.stats->merge_aborts),
		100ull * (positions_used() - living) / positions_used(),
		(double)counter(&core.catalog.stats->merge_bytes) / FM_PAGE_SIZE /
			(double)counter(&core.catalog.stats->merge_freed_slots));
	/* As the paper counts: at most one partial for each parity, for each data slot freed. */
	CHECK(counter(&core.catalog.stats->merge_bytes) <=
		2ull * FM_PAGE_SIZE * counter(&core.catalog.stats->merge_freed_slots));
	CHECK_EQ(counter(&core.catalog.stats->merge_refusals), 0);
	CHECK_EQ(counter(&core.catalog.stats->degraded_reads), 0);
}

TEST(holes_are_closed_by_the_nodes_and_what_is_left_survives_two_losses)
{
	char config[sizeof list + 32];
	tree_begin();
	nodes_start(6);
	snprintf(config, sizeof config, "%scompact=remote\n", list);
	merge_all(config);
	(void)kill_column(0, 1);
	(void)kill_column(0, 4);
	(void)read_living();
	holes_end();
}

TEST(holes_are_closed_by_the_agent_on_embedded_nodes)
{
	tree_begin();
	merge_all("compact=local\n");
	holes_end();
}

TEST(nothing_is_merged_when_it_is_off)
{
	tree_begin();
	store_holes(2, 1, "embedded-nodes=4\ncompact=off\n", SMALL_PAGES / 4);
	pass(NS_PER_S);
	CHECK_EQ(counter(&core.catalog.stats->merged_pairs), 0);
	CHECK_EQ(atomic_load(&core.catalog.header->compacting), 0);
	CHECK(!merge_pending(&core));
	CHECK(are_slots_kept(runtime, 0));
	holes_end();
}

TEST(a_node_killed_while_its_group_is_merged_loses_nothing_and_is_replaced)
{
	char config[sizeof list + 32];
	for (unsigned round = 0; round < 2; round++) {
		tree_begin();
		nodes_start(7);
		snprintf(config, sizeof config, "%scompact=%s\n", list,
			round == 0 ? "remote" : "local");
		store_holes(4, 2, config, 2 * SMALL_PAGES);
		CHECK(pump(runtime, has_merged, 1));
		unsigned node = node_of(column_node(0, round == 0 ? 5 : 0));
		node_end(node, SIGKILL);
		for (unsigned i = 0; i < 100; i++)
			runtime_round();
		on_suspect(&core, column_node(0, round == 0 ? 5 : 0));
		CHECK(pump(runtime, is_dense, 15));
		check_settled();
		/* Repair does not wait for a merge for ever. */
		uint64_t until_ns = clock_now_ns() + WAIT_NS;
		while (!is_whole(runtime, 0)) {
			CHECK(clock_now_ns() < until_ns);
			runtime_round();
			pass(20 * NS_PER_MS);
		}
		check_settled();
		holes_end();
	}
}

static bool has_started(struct runtime *r, uint64_t times)
{
	return counter(&r->catalog.stats->agent_starts) >= times;
}

/* The worker dies at the place that FARMEM_FAULTS names. */
static void scenario_death(void)
{
	tree_begin();
	store_holes(2, 1, "embedded-nodes=4\n", SMALL_PAGES / 2);
	CHECK(pump(runtime, is_dense, 10));
	check_settled();
	CHECK(pump(runtime, has_started, 2)); /* the successor may come after all is done */
	holes_end();
	CHECK(await_end(agents[--agents_count], WAIT_NS));
}

static const char *const deaths[] = {"merge.wanted", "merge.preparing", "merge.begun", "merge.sent",
	"merge.prepared", "merge.ended", "merge.committed"};

/* In a process of its own: the agent's environment is that of our start. */
static pid_t scenario_start(const char *name)
{
	char self[] = "/proc/self/exe", word[] = "a_worker_that_dies", faults[64];
	char *argv[] = {self, word, NULL};
	fflush(stdout);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	snprintf(faults, sizeof faults, "agent.die.%s=1", name);
	setenv("FARMEM_FAULTS", faults, 1);
	setenv("AGENT_SCENARIO", name, 1);
	execv(self, argv);
	_exit(127);
}

TEST(a_worker_that_dies_at_any_step_is_succeeded)
{
	pid_t pids[FM_ARRAY_COUNT(deaths)];
	unsigned failed = 0;
	if (getenv("AGENT_SCENARIO") != NULL) {
		scenario_death();
		return;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(deaths); i++)
		pids[i] = scenario_start(deaths[i]);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(deaths); i++) {
		int status = -1;
		CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
		if (status != 0)
			printf("     %s: status %d\n", deaths[i], status);
		failed += status != 0;
	}
	CHECK_EQ(failed, 0);
}

TEST(every_agent_has_ended_and_left_nothing_behind)
{
	for (unsigned i = 0; i < agents_count; i++)
		CHECK(await_end(agents[i], WAIT_NS));
	agents_count = 0;
}
