/*
 * farmem/agent/agent_fake_store.h: a runtime played by a test program that has really stored pages,
 * on a list of nodes, each a daemon that can be killed. Included once per program.
 */
#ifndef FM_FARMEM_AGENT_AGENT_FAKE_STORE_H
#define FM_FARMEM_AGENT_AGENT_FAKE_STORE_H

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

static inline void node_start(struct node *node, int port, const char *host_id)
{
	static int owner[2];
	char path[PATH_MAX], listen_text[64], line[512];
	int fds[2];
	posix_spawn_file_actions_t actions;
	snprintf(path, sizeof path, "%s/farmem-memnode", getenv("FARMEM_BIN"));
	snprintf(listen_text, sizeof listen_text, "127.0.0.1:%d", port);
	char *argv[] = {path, (char[]){"--listen"}, listen_text, (char[]){"--data-listen"},
		(char[]){"127.0.0.1:0"}, (char[]){"--memory"}, (char[]){"256M"},
		(char[]){"--keepalive"}, (char[]){"8s"}, (char[]){"--host-id"},
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
	node->port = (int)strtol(at + 14, NULL, 10);
}

static inline void node_end(unsigned i, int number)
{
	if (nodes[i].pid == 0)
		return;
	kill(nodes[i].pid, number);
	waitpid(nodes[i].pid, NULL, 0);
	nodes[i].pid = 0;
}

static inline void nodes_start(unsigned count)
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

static inline void page_fill(uint32_t page, uint8_t *bytes)
{
	uint64_t random = page * 77ull + 1;
	for (unsigned i = 0; i < FM_PAGE_SIZE / 8; i++)
		((uint64_t *)(void *)bytes)[i] = test_random(&random);
}

static inline void on_suspect(struct core *c, uint32_t node)
{
	(void)c;
	say(runtime, MAILBOX_NODE_SUSPECT, node);
}

static inline void store_begin(uint32_t k, uint32_t m, const char *config)
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
	/* On a busy machine some take their time, and groups would be narrower. */
	for (unsigned i = 0, count = 0; i < NODES_MAX; i++) {
		count += nodes[i].pid != 0;
		CHECK(pump(runtime, has_nodes, count));
	}
}

static int agents[16]; /* that have nothing left to do */
static unsigned agents_count;

/* Its agent ends by itself after a while, as the last case checks. */
static inline void store_end(void)
{
	spanset_io_close(io);
	core_close(&core);
	agents[agents_count++] = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	for (unsigned i = 0; i < NODES_MAX; i++)
		node_end(i, SIGKILL);
	list[0] = '\0';
}

static inline bool has_passed(struct runtime *r, uint64_t when_ns)
{
	(void)r;
	return clock_now_ns() >= when_ns;
}

static inline void pass(uint64_t ns)
{
	CHECK(pump(runtime, has_passed, clock_now_ns() + ns));
}

/* Stores pages [from, from + count), as new ones or in another place. */
static inline int store_batch(uint32_t from, unsigned count)
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

static inline void store_pages(unsigned count)
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
static inline unsigned verify(void)
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

static inline uint64_t counter(const _Atomic uint64_t *value)
{
	return atomic_load(value);
}

/* ---- what is waited for ---- */

/* Or about to be: the node is known to be down. */
static inline unsigned columns_lost(void)
{
	unsigned lost = 0;
	const struct catalog *c = &core.catalog;
	for (unsigned g = 0; g < c->header->groups_count; g++)
		for (unsigned p = 0; p < (unsigned)c->groups[g].k + c->groups[g].m &&
				     atomic_load(&c->groups[g].state) != GROUP_RETIRED;
			p++)
			lost += atomic_load(&c->groups[g].columns[p].lost) ||
				node_is_down(
					runtime, catalog_column_node(&c->groups[g].columns[p]));
	return lost;
}

static inline bool is_whole(struct runtime *r, uint64_t unused)
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
static inline bool catch_repair(unsigned group, unsigned position, uint32_t generation)
{
	const struct catalog_column *column = &core.catalog.groups[group].columns[position];
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (atomic_load(&column->repair) == 0 &&
		atomic_load(&column->generation) == generation) {
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
	}
	return atomic_load(&column->generation) == generation;
}

/* The process of the node in the catalog's entry. */
static inline unsigned node_of(unsigned index)
{
	int port = (int)strtol(strrchr(core.catalog.nodes[index].name, ':') + 1, NULL, 10);
	for (unsigned i = 0; i < NODES_MAX; i++)
		if (nodes[i].pid != 0 && nodes[i].port == port)
			return i;
	CHECK(false);
	return 0;
}

static inline unsigned column_node(unsigned group, unsigned position)
{
	return catalog_column_node(&core.catalog.groups[group].columns[position]);
}

/* Kills what holds that column; the agent learns of it as it would from a reader. */
static inline unsigned kill_column(unsigned group, unsigned position)
{
	unsigned index = column_node(group, position), i = node_of(index);
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	node_end(i, SIGKILL);
	on_suspect(&core, index);
	while (!node_is_down(runtime, index)) {
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
	}
	return i;
}

static inline void check_hosts_differ(void)
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
static inline void check_whole(void)
{
	CHECK(pump(runtime, is_whole, 0));
	check_hosts_differ();
	/* On a busy machine a node may be suspect for a moment: soon all is read directly. */
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	unsigned around;
	while ((around = verify()) > 0 && clock_now_ns() < until_ns)
		;
	CHECK_EQ(around, 0);
	CHECK_EQ(columns_lost(), 0);
}

#endif
