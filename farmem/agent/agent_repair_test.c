/*
 * farmem/agent/agent_repair_test.c: redundancy comes back: real agent, real nodes, and a runtime
 * played by this program that has really stored pages. Nodes die by SIGKILL; every byte is read
 * back and compared, and what was rebuilt must be read directly: no read is degraded afterwards.
 */
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include "base/crc.h"
#include "farmem/agent/agent_fake.h"
#include "farmem/agent/column.h"
#include "farmem/core.h"
#include "farmem/lane.h"
#include "farmem/record.h"
#include "farmem/slot.h"
#include "farmem/spanset.h"

#define STORE_REGION (8 * MIB) /* 2048 slots: 32 MiB of data in a group of 4+2 */
#define GROUP_PAGES 8192u
#define PAGES_MAX (3 * GROUP_PAGES)
#define NODES_MAX 8

/* ---- nodes of a list ---- */

struct node {
	pid_t pid;
	int port;
};

static struct node nodes[NODES_MAX];
static char list[1024];

static void node_start(struct node *node, int port, const char *host_id)
{
	static int owner[2];
	char path[PATH_MAX], listen_text[64], line[512];
	int fds[2];
	posix_spawn_file_actions_t actions;
	snprintf(path, sizeof path, "%s/farmem-memnode", getenv("FARMEM_BIN"));
	snprintf(listen_text, sizeof listen_text, "127.0.0.1:%d", port);
	char *argv[] = {path, (char[]){"--listen"}, listen_text, (char[]){"--data-listen"},
		(char[]){"127.0.0.1:0"}, (char[]){"--memory"}, (char[]){"256M"},
		(char[]){"--keepalive"}, (char[]){"4s"}, (char[]){"--host-id"},
		(char *)(uintptr_t)host_id, (char[]){"--ready-fd"}, (char[]){"9"},
		(char[]){"--owner-fd"}, (char[]){"8"}, NULL};
	if (owner[1] == 0)
		CHECK_EQ(pipe2(owner, O_CLOEXEC), 0); /* nodes of a failed case end with us */
	CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 9);
	posix_spawn_file_actions_adddup2(&actions, owner[0], 8);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	CHECK_EQ(posix_spawn(&node->pid, path, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	ssize_t length = read(fds[0], line, sizeof line - 1);
	close(fds[0]);
	CHECK(length > 0);
	line[length] = '\0';
	const char *at = strstr(line, "ctl=127.0.0.1:");
	CHECK(at != NULL);
	node->port = atoi(at + 14);
}

static void node_end(unsigned i, int number)
{
	if (nodes[i].pid == 0)
		return;
	kill(nodes[i].pid, number);
	waitpid(nodes[i].pid, NULL, 0);
	nodes[i].pid = 0;
}

static void nodes_start(unsigned count)
{
	size_t used = (size_t)snprintf(list, sizeof list, "nodes=");
	memset(nodes, 0, sizeof nodes);
	for (unsigned i = 0; i < count; i++) {
		char host[2] = {(char)('a' + i), '\0'};
		node_start(&nodes[i], 0, host);
		used += (size_t)snprintf(list + used, sizeof list - used, "%s127.0.0.1:%d",
			i == 0 ? "" : ",", nodes[i].port);
	}
	snprintf(list + used, sizeof list - used, "\n");
}

/* ---- a runtime that stores ---- */

static struct runtime *runtime;
static struct core core;
static struct spanset_io *io;
static unsigned pages_count;
static struct {
	struct ssid ssid;
	uint32_t pos;
} places[PAGES_MAX];
static uint8_t batch[SPANSET_BATCH_PAGES * FM_PAGE_SIZE];

static void page_fill(uint32_t page, uint8_t *bytes)
{
	uint64_t random = page * 77ull + 1;
	for (unsigned i = 0; i < FM_PAGE_SIZE / 8; i++)
		((uint64_t *)(void *)bytes)[i] = test_random(&random);
}

static void on_suspect(struct core *c, uint32_t node)
{
	(void)c;
	say(runtime, MAILBOX_NODE_SUSPECT, node);
}

static void store_begin(uint32_t k, uint32_t m, const char *config)
{
	struct spanset_io_options options = {.name = "test",
		.spin_ns = 20000,
		.fetch_deadline_ns = 2 * NS_PER_S,
		.store_deadline_ns = 5 * NS_PER_S,
		.stores = true};
	struct catalog_options catalog = {.range_base = 1ull << 40,
		.range_pages = PAGES_MAX,
		.records_max = 2 * PAGES_MAX,
		.code_k = k,
		.code_m = m,
		.region_bytes = STORE_REGION,
		.command = "fake"};
	memset(&core, 0, sizeof core);
	runtime = calloc(1, sizeof *runtime);
	CHECK_EQ(catalog_create(&core.catalog, &catalog), 0);
	CHECK_EQ(core_open(&core, 1024), 0);
	runtime->catalog = core.catalog;
	runtime->socket = tree_connect();
	hello(runtime, config);
	core.report_suspect = on_suspect;
	CHECK_EQ(spanset_io_open(&core, &options, &io), 0);
	pages_count = 0;
}

static int agents[16]; /* that have nothing left to do */
static unsigned agents_count;

/* Its agent ends by itself after a while, as the last case checks. */
static void store_end(void)
{
	spanset_io_close(io);
	core_close(&core);
	agents[agents_count++] = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	for (unsigned i = 0; i < NODES_MAX; i++)
		node_end(i, SIGKILL);
	list[0] = '\0';
}

static bool has_passed(struct runtime *r, uint64_t when_ns)
{
	(void)r;
	return clock_now_ns() >= when_ns;
}

static void pass(uint64_t ns)
{
	CHECK(pump(runtime, has_passed, clock_now_ns() + ns));
}

/* Stores pages [from, from + count), as new ones or in another place. */
static int store_batch(uint32_t from, unsigned count)
{
	struct spanset_item items[SPANSET_BATCH_PAGES];
	for (unsigned i = 0; i < count; i++) {
		page_fill(from + i, batch + (size_t)i * FM_PAGE_SIZE);
		items[i] = (struct spanset_item){
			.page = from + i, .bytes = batch + (size_t)i * FM_PAGE_SIZE};
	}
	int rc = spanset_store_reserved(io, items, count);
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		places[from + i].ssid = items[i].ssid;
		places[from + i].pos = items[i].pos;
	}
	return rc;
}

static void store_pages(unsigned count)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (count > 0) {
		unsigned now = FM_MIN(count, SPANSET_BATCH_PAGES);
		if (store_batch(pages_count, now) == 0) {
			pages_count += now;
			count -= now;
			continue;
		}
		CHECK(clock_now_ns() < until_ns);
		say(runtime, MAILBOX_WANT_GROUPS, 0);
		pass(20 * NS_PER_MS);
	}
}

/* Reads every page and compares it. Returns how many were read around a loss. */
static unsigned verify(void)
{
	static uint8_t expected[FM_PAGE_SIZE];
	unsigned degraded = 0;
	for (uint32_t from = 0; from < pages_count; from += SPANSET_FETCH_MAX) {
		unsigned count = FM_MIN(pages_count - from, (unsigned)SPANSET_FETCH_MAX);
		for (unsigned i = 0; i < count; i++) {
			struct spanset_fetch *fetch = spanset_fetch_begin(
				io, from + i, places[from + i].ssid, places[from + i].pos);
			CHECK(fetch != NULL);
			fetch->user = from + i;
		}
		spanset_fetch_submit(io);
		for (unsigned i = 0; i < count; i++) {
			struct spanset_fetch *fetch =
				spanset_fetch_poll(io, clock_now_ns() + WAIT_NS);
			CHECK(fetch != NULL);
			CHECK_EQ(fetch->status, 0);
			page_fill((uint32_t)fetch->user, expected);
			CHECK(memcmp(fetch->bytes, expected, FM_PAGE_SIZE) == 0);
			degraded += fetch->was_degraded;
			spanset_fetch_end(io, fetch);
		}
		spanset_io_maintain(io);
	}
	return degraded;
}

static uint64_t counter(const _Atomic uint64_t *value)
{
	return atomic_load(value);
}

/* ---- what is waited for ---- */

static unsigned columns_lost(void)
{
	unsigned lost = 0;
	const struct catalog *c = &core.catalog;
	for (unsigned g = 0; g < c->header->groups_count; g++)
		for (unsigned p = 0; p < (unsigned)c->groups[g].k + c->groups[g].m &&
				     atomic_load(&c->groups[g].state) != GROUP_RETIRED;
			p++)
			lost += atomic_load(&c->groups[g].columns[p].lost);
	return lost;
}

static bool is_whole(struct runtime *r, uint64_t unused)
{
	(void)unused;
	const struct catalog *c = &r->catalog;
	for (unsigned g = 0; g < c->header->groups_count; g++)
		if (atomic_load(&c->groups[g].state) != GROUP_OPEN &&
			atomic_load(&c->groups[g].state) != GROUP_RETIRED)
			return false;
	return columns_lost() == 0;
}

/* Waits, looking often, until the column is being replaced, or has been. False: it has been. */
static bool catch_repair(unsigned group, unsigned position, uint32_t generation)
{
	const struct catalog_column *column = &core.catalog.groups[group].columns[position];
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (atomic_load(&column->repair) == 0 &&
		atomic_load(&column->generation) == generation) {
		CHECK(clock_now_ns() < until_ns);
		usleep(50);
	}
	return atomic_load(&column->generation) == generation;
}

static bool state_is(struct runtime *r, uint64_t group_and_state)
{
	return atomic_load(&r->catalog.groups[group_and_state >> 8].state) ==
	       (group_and_state & 255);
}

/* The process of the node in the catalog's entry. */
static unsigned node_of(unsigned index)
{
	int port = atoi(strrchr(core.catalog.nodes[index].name, ':') + 1);
	for (unsigned i = 0; i < NODES_MAX; i++)
		if (nodes[i].pid != 0 && nodes[i].port == port)
			return i;
	CHECK(false);
	return 0;
}

static unsigned column_node(unsigned group, unsigned position)
{
	return catalog_column_node(&core.catalog.groups[group].columns[position]);
}

/* Kills what holds that column; the agent learns of it as it would from a reader. */
static unsigned kill_column(unsigned group, unsigned position)
{
	unsigned index = column_node(group, position), i = node_of(index);
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	node_end(i, SIGKILL);
	on_suspect(&core, index);
	while (!node_is_down(runtime, index)) {
		CHECK(clock_now_ns() < until_ns);
		usleep(50);
	}
	return i;
}

static void check_hosts_differ(void)
{
	const struct catalog *c = &core.catalog;
	for (unsigned g = 0; g < c->header->groups_count; g++)
		for (unsigned p = 0; p < (unsigned)c->groups[g].k + c->groups[g].m; p++)
			for (unsigned q = 0;
				q < p && atomic_load(&c->groups[g].state) != GROUP_RETIRED; q++)
				CHECK_NE(c->nodes[column_node(g, p)].host,
					c->nodes[column_node(g, q)].host);
}

/* All is there, on different hosts, and read directly. */
static void check_whole(void)
{
	CHECK(pump(runtime, is_whole, 0));
	check_hosts_differ();
	CHECK_EQ(verify(), 0);
	CHECK_EQ(columns_lost(), 0);
}

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

TEST(too_few_hosts_make_narrower_groups_and_wide_ones_again_when_hosts_return)
{
	tree_begin();
	nodes_start(6);
	store_begin(4, 2, list);
	store_pages(400);
	unsigned gone = kill_column(0, 5);
	CHECK(pump(runtime, state_is, 0 << 8 | GROUP_EVACUATE));
	move_out();
	CHECK(pump(runtime, state_is, 0 << 8 | GROUP_RETIRED));
	CHECK_EQ(columns_lost(), 0);
	CHECK_EQ(core.catalog.groups[1].k, 3);
	CHECK_EQ(core.catalog.groups[1].m, 2);
	CHECK_EQ(verify(), 0);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "full redundancy again"));
	char host[2] = {(char)('a' + gone), '\0'};
	node_start(&nodes[gone], nodes[gone].port, host);
	CHECK(pump(runtime, state_is, 1 << 8 | GROUP_EVACUATE));
	move_out();
	CHECK(pump(runtime, state_is, 1 << 8 | GROUP_RETIRED));
	CHECK_EQ(core.catalog.groups[2].k, 4);
	CHECK_EQ(core.catalog.groups[2].m, 2);
	check_whole();
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

/* ---- agents that die ---- */

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
static void scenario(void)
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
	CHECK(pump(runtime, state_is, 0 << 8 | GROUP_EVACUATE));
	move_out();
	CHECK(pump(runtime, state_is, 0 << 8 | GROUP_RETIRED));
	check_whole();
	host[0] = (char)('a' + gone);
	node_start(&nodes[gone], nodes[gone].port, host);
	CHECK(pump(runtime, state_is, 1 << 8 | GROUP_EVACUATE));
	move_out();
	check_whole();
	CHECK(pump(runtime, nothing_leaked, 0));
	CHECK_EQ(atomic_load(&core.catalog.stats->agent_starts), 2); /* it did die */
	store_end();
}

static const char *const dying_places[] = {"repair.reserved", "repair.begun", "repair.answered",
	"repair.done", "repair.committed", "repair.retired"};

static pid_t scenario_start(const char *place)
{
	char self[] = "/proc/self/exe", word[] = "a_worker_killed_anywhere", faults[64];
	char *argv[] = {self, word, NULL};
	fflush(stdout);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	snprintf(faults, sizeof faults, "agent.die.%s=1", place);
	setenv("FARMEM_FAULTS", faults, 1);
	execv(self, argv);
	_exit(127);
}

TEST(a_worker_killed_anywhere_in_it_changes_nothing)
{
	pid_t pids[FM_ARRAY_COUNT(dying_places)];
	unsigned failed = 0;
	if (getenv("FARMEM_FAULTS") != NULL) {
		scenario();
		CHECK(await_end(agents[--agents_count], WAIT_NS));
		return;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(dying_places); i++)
		pids[i] = scenario_start(dying_places[i]);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(dying_places); i++) {
		int status = -1;
		CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
		if (status != 0)
			printf("     %s: status %d\n", dying_places[i], status);
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
