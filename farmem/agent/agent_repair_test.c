/*
 * farmem/agent/agent_repair_test.c: redundancy comes back: real agent, real nodes, and a runtime
 * played by this program that has really stored pages. Nodes die by SIGKILL; every byte is read
 * back and compared, and what was rebuilt must be read directly: no read is degraded afterwards.
 */
#include "farmem/agent/agent_fake_store.h"

/* ---- repair ---- */

TEST(a_killed_node_is_rebuilt_elsewhere_and_nothing_is_read_around_it_any_more)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES + 500);
	CHECK_EQ(verify(), 0);
	kill_column(0, 1);
	uint64_t begun_ns = clock_now_ns();
	CHECK(pump(runtime, is_whole, 0));
	printf("     whole again after %.0f ms\n",
		(double)(clock_now_ns() - begun_ns) / (double)NS_PER_MS);
	check_whole();
	CHECK(pump(runtime, was_noticed, (uintptr_t) "full redundancy again"));
	CHECK(counter(&core.catalog.stats->repaired_columns) >= 1);
	CHECK(counter(&core.catalog.stats->repaired_bytes) >= STORE_REGION);
	CHECK_EQ(counter(&core.catalog.stats->scrub_mismatches), 0);
	store_pages(1000); /* and written to as before */
	CHECK_EQ(verify(), 0);
	store_end();
}

TEST(embedded_nodes_over_shared_memory_are_rebuilt_too)
{
	tree_begin();
	store_begin(4, 2, "");
	store_pages(GROUP_PAGES / 2);
	unsigned victim = column_node(0, 2);
	kill(node_pid(runtime, victim), SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	check_whole();
	store_end();
}

TEST(a_second_node_killed_during_the_repair_loses_nothing)
{
	tree_begin();
	nodes_start(8);
	store_begin(4, 2, list);
	store_pages(2 * GROUP_PAGES);
	uint32_t generation = atomic_load(&core.catalog.groups[0].columns[0].generation);
	kill_column(0, 0);
	printf("     %s\n", catch_repair(0, 0, generation) ? "during" : "after");
	unsigned second = column_node(0, 3);
	node_end(node_of(second), SIGKILL);
	on_suspect(&core, second);
	(void)verify();
	check_whole();
	store_end();
}

TEST(a_replacement_killed_during_the_repair_is_replaced)
{
	tree_begin();
	nodes_start(8);
	store_begin(4, 2, list);
	store_pages(2 * GROUP_PAGES);
	struct catalog_column *column = &core.catalog.groups[0].columns[4];
	uint32_t generation = atomic_load(&column->generation);
	kill_column(0, 4);
	printf("     %s\n", catch_repair(0, 4, generation) ? "during" : "after");
	unsigned target = column->places[(generation + 1) & 1].node;
	node_end(node_of(target), SIGKILL);
	on_suspect(&core, target);
	CHECK(pump(runtime, node_is_down, target));
	check_whole();
	store_end();
}

TEST(nodes_killed_one_after_the_other_and_started_again_lose_nothing)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES);
	for (unsigned round = 0; round < 4; round++) {
		unsigned i = kill_column(0, round);
		char host[2] = {(char)('a' + i), '\0'};
		CHECK(pump(runtime, is_whole, 0));
		node_start(&nodes[i], nodes[i].port, host);
	}
	check_whole();
	store_end();
}

/* Somebody's bit flips: written past the runtime, into the first slot of a column. */
static void spoil(unsigned group, unsigned position, uint32_t slot)
{
	static uint8_t nonsense[FM_PAGE_SIZE] = "nonsense";
	struct fabric_queue_options options = {.depth = 8};
	struct fabric_queue *queue;
	struct fabric_region *region;
	struct fabric_completion done;
	struct iovec iov = {nonsense, sizeof nonsense};
	const struct catalog_place *place =
		catalog_cur(&core.catalog.groups[group].columns[position]);
	struct fabric_transfer transfer = {.offset = (uint64_t)slot * FM_PAGE_SIZE,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + WAIT_NS};
	CHECK_EQ(fabric_queue_open(&options, &queue), 0);
	CHECK_EQ(fabric_attach(queue, core.catalog.nodes[place->node].endpoint, &place->capability,
			 clock_now_ns() + WAIT_NS, &region),
		0);
	CHECK_EQ(fabric_post_write(region, &transfer), 0);
	CHECK_EQ(fabric_wait(queue, &done, 1, clock_now_ns() + WAIT_NS), 1);
	CHECK_EQ(done.status, 0);
	fabric_detach(region);
	fabric_queue_close(queue);
}

static bool heal_is_wanted(struct runtime *r, uint64_t ssid)
{
	for (unsigned i = 0; i < CATALOG_HEAL_MAX; i++)
		if (atomic_load(&r->catalog.heal[i]) == ssid + 1)
			return true;
	return false;
}

TEST(wrong_bytes_at_a_source_are_an_erasure_and_are_to_be_healed)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(1000);
	struct record r = record_in(&core.catalog, places[0].ssid);
	unsigned own = places[0].pos, bad = (own + 1) % 4;
	spoil(0, bad, record_slot(r, bad));
	kill_column(0, own);
	CHECK(pump(runtime, is_whole, 0));
	CHECK(pump(runtime, heal_is_wanted, places[0].ssid.v));
	CHECK_LT(0, counter(&core.catalog.stats->scrub_mismatches));
	CHECK_EQ(verify(), 1); /* the spoilt page itself */
	store_end();
}

/* ---- nodes that flap ---- */

/* The catalog's newest entry for a node of the list. */
static unsigned index_of(unsigned i)
{
	for (unsigned index = core.catalog.header->nodes_count; index-- > 0;)
		if (strtol(strrchr(core.catalog.nodes[index].name, ':') + 1, NULL, 10) ==
			nodes[i].port)
			return index;
	CHECK(false);
	return 0;
}

TEST(a_node_that_goes_down_again_and_again_is_given_nothing_for_a_while)
{
	tree_begin();
	nodes_start(5);
	store_begin(2, 1, list);
	CHECK(pump(runtime, has_nodes, 5));
	for (unsigned round = 0; round <= 3; round++) {
		unsigned index = index_of(0);
		CHECK(!was_noticed(runtime, (uintptr_t) "again and again"));
		node_end(0, SIGKILL);
		on_suspect(&core, index);
		CHECK(pump(runtime, node_is_down, index));
		node_start(&nodes[0], nodes[0].port, "a");
		CHECK(pump(runtime, has_nodes, 6 + round));
	}
	CHECK(pump(runtime, was_noticed, (uintptr_t) "again and again"));
	want(runtime, 6);
	for (unsigned g = 0; g < 6; g++)
		for (unsigned p = 0; p < 3; p++)
			CHECK_NE(column_node(g, p), index_of(0));
	store_end();
}

/* ---- drain ---- */

static void ask_drain(const char *name, int64_t begin, int64_t answer)
{
	static struct mailbox_message message;
	int fd = tree_connect(), none;
	memset(&message, 0, sizeof message);
	message.version = MAILBOX_VERSION;
	message.kind = MAILBOX_DRAIN;
	message.value = begin;
	snprintf(message.text, sizeof message.text, "%s", name);
	CHECK_EQ(mailbox_send(fd, &message, -1), 0);
	struct pollfd poller = {.fd = fd, .events = POLLIN};
	CHECK_EQ(poll(&poller, 1, (int)(WAIT_NS / NS_PER_MS)), 1);
	CHECK_EQ(mailbox_receive(fd, &message, &none), 0);
	CHECK_EQ(message.kind, MAILBOX_DONE);
	CHECK_EQ(message.value, answer);
	close(fd);
}

static bool node_is_empty(struct runtime *r, uint64_t index)
{
	for (unsigned g = 0; g < r->catalog.header->groups_count; g++)
		for (unsigned p = 0; p < 6; p++)
			if (column_node(g, p) == index)
				return false;
	return true;
}

static bool gives_everything_back(struct runtime *r, uint64_t port)
{
	char address[64];
	(void)r;
	snprintf(address, sizeof address, "127.0.0.1:%d", (int)port);
	return leased_at(address) == 0;
}

TEST(a_drained_node_is_left_without_one_degraded_read)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES);
	unsigned index = column_node(0, 2);
	ask_drain("nobody:1", 1, -ENOENT);
	ask_drain(core.catalog.nodes[index].name, 1, 0);
	ask_drain(core.catalog.nodes[index].name, 1, -EALREADY);
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (!node_is_empty(runtime, index) && clock_now_ns() < until_ns)
		CHECK_EQ(verify(), 0);
	CHECK(pump(runtime, node_is_empty, index));
	check_whole();
	CHECK_EQ(counter(&core.catalog.stats->degraded_reads), 0);
	CHECK_LT(0, counter(&core.catalog.stats->drained_columns));
	CHECK(pump(runtime, gives_everything_back, (uint64_t)nodes[node_of(index)].port));
	/* It may come back. */
	ask_drain(core.catalog.nodes[index].name, 0, 0);
	kill_column(0, 0);
	check_whole();
	store_end();
}

TEST(a_drain_that_is_cancelled_leaves_everything_in_use)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES);
	for (unsigned round = 0; round < 3; round++) {
		unsigned index = column_node(0, round);
		ask_drain(core.catalog.nodes[index].name, 1, 0);
		pass(2 * round * NS_PER_MS);
		ask_drain(core.catalog.nodes[index].name, 0, 0);
		check_whole();
	}
	CHECK_EQ(counter(&core.catalog.stats->degraded_reads), 0);
	store_end();
}

TEST(a_node_that_is_told_to_end_is_emptied_first)
{
	tree_begin();
	nodes_start(7);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES);
	unsigned index = column_node(0, 1), i = node_of(index);
	int pidfd = pidfd_of(nodes[i].pid);
	kill(nodes[i].pid, SIGTERM);
	CHECK(await_end(pidfd, 2 * WAIT_NS));
	CHECK(node_is_empty(runtime, index));
	waitpid(nodes[i].pid, NULL, 0);
	nodes[i].pid = 0;
	check_whole();
	CHECK_EQ(counter(&core.catalog.stats->degraded_reads), 0);
	CHECK_EQ(counter(&core.catalog.stats->repaired_columns), 0);
	store_end();
}

/* ---- too few hosts ---- */

/* What repack does: everything in groups that are to be emptied is written elsewhere. */
static void move_out(void)
{
	for (uint32_t page = 0; page < pages_count; page++) {
		struct ssid old = places[page].ssid;
		uint32_t pos = places[page].pos, group;
		CHECK(column_record_group(&core.catalog, old.v, &group));
		if (atomic_load(&core.catalog.groups[group].state) != GROUP_EVACUATE)
			continue;
		while (store_batch(page, 1) != 0) {
			say(runtime, MAILBOX_WANT_GROUPS, 0);
			pass(20 * NS_PER_MS);
		}
		record_clear_live(&core, old, pos);
	}
	(void)record_reclaim(&core);
}

static bool all_have_code(unsigned k, unsigned m)
{
	const struct catalog *c = &core.catalog;
	for (unsigned g = 0; g < c->header->groups_count; g++)
		if (atomic_load(&c->groups[g].state) != GROUP_RETIRED &&
			(atomic_load(&c->groups[g].state) != GROUP_OPEN || c->groups[g].k != k ||
				c->groups[g].m != m))
			return false;
	return true;
}

/* Until every group that is left is open and has this code. */
static void settle(unsigned k, unsigned m)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (!all_have_code(k, m)) {
		CHECK(clock_now_ns() < until_ns);
		move_out();
		pass(20 * NS_PER_MS);
	}
	check_whole();
}

TEST(too_few_hosts_make_narrower_groups_and_wide_ones_again_when_hosts_return)
{
	tree_begin();
	nodes_start(6);
	store_begin(4, 2, list);
	store_pages(400);
	unsigned gone = kill_column(0, 5);
	settle(3, 2);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "full redundancy again"));
	char host[2] = {(char)('a' + gone), '\0'};
	node_start(&nodes[gone], nodes[gone].port, host);
	settle(4, 2);
	store_end();
}

/* ---- scrubbing ---- */

static bool was_scrubbed(struct runtime *r, uint64_t bytes)
{
	return counter(&r->catalog.stats->scrubbed_bytes) >= bytes;
}

TEST(scrubbing_reads_everything_and_finds_the_one_wrong_slot)
{
	char config[1100];
	tree_begin();
	nodes_start(6);
	snprintf(config, sizeof config, "%sscrub-period=1s\n", list);
	store_begin(4, 2, config);
	store_pages(GROUP_PAGES / 2);
	uint64_t all = counter(&core.catalog.stats->slots_used_bytes);
	CHECK(pump(runtime, was_scrubbed, 2 * all));
	CHECK_EQ(counter(&core.catalog.stats->scrub_mismatches), 0);
	struct record r = record_in(&core.catalog, places[77].ssid);
	spoil(0, 5, record_slot(r, 5));
	CHECK(pump(runtime, heal_is_wanted, places[77].ssid.v));
	CHECK_LT(0, counter(&core.catalog.stats->scrub_mismatches));
	for (unsigned i = 0; i < CATALOG_HEAL_MAX; i++) {
		uint32_t wanted = atomic_load(&core.catalog.heal[i]);
		CHECK(wanted == 0 || wanted == places[77].ssid.v + 1);
	}
	store_end();
}

/* ---- agents that die, nodes that freeze ---- */

/* Of all nodes of the list. */
static uint64_t leased_everywhere(void)
{
	uint64_t total = 0;
	char address[64];
	for (unsigned i = 0; i < NODES_MAX; i++) {
		snprintf(address, sizeof address, "127.0.0.1:%d", nodes[i].port);
		total += nodes[i].pid != 0 ? leased_at(address) : 0;
	}
	return total;
}

/* What the groups hold, and nothing besides. */
static bool nothing_leaked(struct runtime *r, uint64_t unused)
{
	uint64_t columns = 0;
	(void)unused;
	for (unsigned g = 0; g < r->catalog.header->groups_count; g++)
		if (atomic_load(&r->catalog.groups[g].state) != GROUP_RETIRED)
			columns += (uint64_t)r->catalog.groups[g].k + r->catalog.groups[g].m;
	return leased_everywhere() == columns * STORE_REGION;
}

/* A repair, a drain, an evacuation; somewhere in them the worker dies. */
static void scenario_death(void)
{
	tree_begin();
	nodes_start(6);
	char host[2] = {'g', '\0'};
	node_start(&nodes[6], 0, host);
	snprintf(list + strlen(list) - 1, sizeof list - strlen(list), ",127.0.0.1:%d\n",
		nodes[6].port);
	store_begin(4, 2, list);
	store_pages(1000);
	(void)kill_column(0, 1);
	check_whole();
	unsigned gone = kill_column(0, 2); /* and now there are five */
	settle(3, 2);
	host[0] = (char)('a' + gone);
	node_start(&nodes[gone], nodes[gone].port, host);
	settle(4, 2);
	CHECK(pump(runtime, nothing_leaked, 0));
	CHECK_EQ(atomic_load(&core.catalog.stats->agent_starts), 2); /* it did die */
	store_end();
}

/* A node freezes in the middle of a repair: where it reads, or where it writes. */
static void scenario_freeze(bool target)
{
	tree_begin();
	nodes_start(8);
	store_begin(4, 2, list);
	store_pages(GROUP_PAGES);
	const struct catalog_column *column = &core.catalog.groups[0].columns[1];
	uint32_t generation = atomic_load(&column->generation);
	(void)kill_column(0, 1);
	(void)catch_repair(0, 1, generation);
	unsigned index = target ? column->places[(generation + 1) & 1].node : column_node(0, 3);
	unsigned frozen = node_of(index);
	kill(nodes[frozen].pid, SIGSTOP);
	on_suspect(&core, index);
	CHECK(pump(runtime, node_is_down, index));
	check_whole();
	kill(nodes[frozen].pid, SIGCONT);
	CHECK(pump(runtime, nothing_leaked, 0));
	check_whole();
	store_end();
}

static const char *const scenarios[] = {"repair.reserved", "repair.begun", "repair.answered",
	"repair.done", "repair.committed", "repair.retired", "source freezes", "target freezes"};

static void scenario_run(const char *name)
{
	if (strncmp(name, "repair.", 7) == 0)
		scenario_death();
	else
		scenario_freeze(strncmp(name, "target", 6) == 0);
	CHECK(await_end(agents[--agents_count], WAIT_NS));
}

static pid_t scenario_start(const char *name)
{
	char self[] = "/proc/self/exe", word[] = "what_happens_in_the_middle", faults[64];
	char *argv[] = {self, word, NULL};
	fflush(stdout);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	snprintf(faults, sizeof faults, "agent.die.%s=1", name);
	if (strncmp(name, "repair.", 7) == 0)
		setenv("FARMEM_FAULTS", faults, 1);
	setenv("AGENT_SCENARIO", name, 1);
	execv(self, argv);
	_exit(127);
}

/* Each in a process of its own, all at once: most of it is waiting. */
TEST(what_happens_in_the_middle_of_a_repair_changes_nothing)
{
	const char *name = getenv("AGENT_SCENARIO");
	pid_t pids[FM_ARRAY_COUNT(scenarios)];
	unsigned failed = 0;
	if (name != NULL) {
		scenario_run(name);
		return;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(scenarios); i++)
		pids[i] = scenario_start(scenarios[i]);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(scenarios); i++) {
		int status = -1;
		CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
		if (status != 0)
			printf("     %s: status %d\n", scenarios[i], status);
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
