/*
 * farmem/agent/agent_test.c: a real farmem-agent with real memory nodes, and runtimes played by this
 * program over the mailbox.
 *
 * The agent and its nodes are found by FARMEM_BIN, which main sets to the directory above this program
 * and then starts itself again, because the mailbox reads the environment a process was started with.
 */
#define TEST_MAIN_OWN
#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/test.h"
#include "farmem/catalog.h"
#include "farmem/mailbox.h"
#include "rpc/ctl_memnode.h"

#define MIB (1ull << 20)
#define REGION (1 * MIB)
#define WAIT_NS (20 * NS_PER_S)
#define NODES_MAX 8

/* ---- a tree, a runtime ---- */

static char base_dir[64], tree_dir[128];
static unsigned tree_number;

static void tree_begin(void)
{
	if (base_dir[0] == '\0') {
		snprintf(base_dir, sizeof base_dir, "/tmp/farmem-agent-test-XXXXXX");
		CHECK(mkdtemp(base_dir) != NULL);
	}
	snprintf(tree_dir, sizeof tree_dir, "%s/t%u", base_dir, ++tree_number);
}

static const char *tree_name(void)
{
	return strrchr(tree_dir, '/') + 1;
}

struct runtime {
	int socket;
	struct catalog catalog;
	char notices[8192];
	unsigned nodes_told, groups_told;
	int64_t groups_value;
	bool welcome, ended;
};

static int tree_connect(void)
{
	int fd = mailbox_connect(base_dir, tree_name(), clock_now_ns() + WAIT_NS);
	CHECK(fd >= 0);
	return fd;
}

static void say(struct runtime *runtime, uint32_t kind, int64_t value)
{
	struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = kind, .value = value};
	CHECK_EQ(mailbox_send(runtime->socket, &message, -1), 0);
}

static void hello(struct runtime *runtime, const char *config)
{
	static struct mailbox_message message;
	memset(&message, 0, sizeof message);
	message.version = MAILBOX_VERSION;
	message.kind = MAILBOX_HELLO;
	snprintf(message.text, sizeof message.text, "%s", config);
	CHECK_EQ(mailbox_send(runtime->socket, &message, runtime->catalog.fd), 0);
}

/* A runtime of code k+m, said HELLO with configuration lines. */
static struct runtime *runtime_begin(uint32_t k, uint32_t m, const char *config)
{
	struct runtime *runtime = calloc(1, sizeof *runtime);
	struct catalog_options options = {.range_base = 1ull << 40,
		.range_pages = 4096,
		.records_max = 1024,
		.code_k = k,
		.code_m = m,
		.region_bytes = REGION,
		.command = "fake"};
	CHECK_EQ(catalog_create(&runtime->catalog, &options), 0);
	runtime->socket = tree_connect();
	hello(runtime, config);
	return runtime;
}

static void runtime_end(struct runtime *runtime)
{
	close(runtime->socket);
	catalog_close(&runtime->catalog);
	free(runtime);
}

static void take(struct runtime *runtime, const struct mailbox_message *message)
{
	size_t used = strlen(runtime->notices);
	switch (message->kind) {
	case MAILBOX_WELCOME:
		runtime->welcome = true;
		break;
	case MAILBOX_NODES:
		runtime->nodes_told++;
		break;
	case MAILBOX_GROUPS:
		runtime->groups_told++;
		runtime->groups_value = message->value;
		break;
	case MAILBOX_NOTICE:
		snprintf(runtime->notices + used, sizeof runtime->notices - used, "%s\n",
			message->text);
		break;
	default:
		CHECK(!"an unknown kind of message");
	}
}

/* Takes messages until `done` holds; the agent's silence is bounded by WAIT_NS. */
static bool pump(
	struct runtime *runtime, bool (*done)(struct runtime *, uint64_t), uint64_t argument)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	while (!done(runtime, argument)) {
		static struct mailbox_message message;
		struct pollfd poller = {.fd = runtime->socket, .events = POLLIN};
		int fd;
		if (runtime->ended || clock_now_ns() >= until_ns)
			return false;
		/* What is looked for may also appear in the catalog with no message to come. */
		if (poll(&poller, 1, 20) <= 0)
			continue;
		int error = mailbox_receive(runtime->socket, &message, &fd);
		CHECK_EQ(fd, -1);
		if (error == 0)
			take(runtime, &message);
		else
			runtime->ended = error != -EAGAIN;
	}
	return true;
}

static bool has_groups(struct runtime *runtime, uint64_t count)
{
	return __atomic_load_n(&runtime->catalog.header->groups_count, __ATOMIC_ACQUIRE) >= count;
}

static bool has_nodes(struct runtime *runtime, uint64_t count)
{
	return __atomic_load_n(&runtime->catalog.header->nodes_count, __ATOMIC_ACQUIRE) >= count;
}

static bool was_welcomed(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->welcome;
}

static bool has_ended(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->ended;
}

static bool was_told_full(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->groups_told > 0 && runtime->groups_value == -ENOMEM;
}

static bool was_told_of_nodes(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->nodes_told > 0;
}

static uint32_t node_state(struct runtime *runtime, uint64_t index)
{
	return __atomic_load_n(&runtime->catalog.nodes[index].state, __ATOMIC_ACQUIRE);
}

static bool node_is_down(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_DOWN;
}

static bool node_is_suspect(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_SUSPECT;
}

static bool node_is_up(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_UP;
}

static bool was_noticed(struct runtime *runtime, uint64_t word)
{
	return strstr(runtime->notices, (const char *)(uintptr_t)word) != NULL;
}

static void want(struct runtime *runtime, uint32_t groups)
{
	__atomic_store_n(&runtime->catalog.header->groups_wanted, groups, __ATOMIC_RELEASE);
	say(runtime, MAILBOX_WANT_GROUPS, groups);
	CHECK(pump(runtime, has_groups, groups));
}

static void want_in_vain(struct runtime *runtime, uint32_t groups)
{
	runtime->groups_told = 0;
	__atomic_store_n(&runtime->catalog.header->groups_wanted, groups, __ATOMIC_RELEASE);
	say(runtime, MAILBOX_WANT_GROUPS, groups);
	CHECK(pump(runtime, was_told_full, 0));
}

/* Group g: k+m distinct nodes on distinct hosts, all named columns plausible. */
static void check_group(struct runtime *runtime, unsigned g, unsigned k, unsigned m)
{
	const struct catalog_group *group = &runtime->catalog.groups[g];
	CHECK_EQ(group->k, k);
	CHECK_EQ(group->m, m);
	CHECK_EQ(group->slot_count, REGION / FM_PAGE_SIZE);
	for (unsigned p = 0; p < k + m; p++) {
		const struct catalog_column *column = &group->columns[p];
		const struct catalog_node *node = &runtime->catalog.nodes[column->node];
		CHECK(has_nodes(runtime, column->node + 1u));
		CHECK_EQ(column->capability.incarnation, node->incarnation);
		CHECK_NE(column->capability.lease, 0);
		for (unsigned q = 0; q < p; q++)
			CHECK_NE(node->host, runtime->catalog.nodes[group->columns[q].node].host);
	}
}

/* ---- processes ---- */

static int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	CHECK(fd >= 0);
	return fd;
}

static bool await_end(int pidfd, uint64_t wait_ns)
{
	struct pollfd poller = {.fd = pidfd, .events = POLLIN};
	int ready = poll(&poller, 1, (int)(wait_ns / NS_PER_MS));
	close(pidfd);
	return ready == 1;
}

static pid_t agent_pid(const struct runtime *runtime)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK_EQ(getsockopt(runtime->socket, SOL_SOCKET, SO_PEERCRED, &peer, &length), 0);
	return peer.pid;
}

/* The process behind a unix socket path, by asking the kernel who listens there. */
static pid_t listener_pid(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t length = sizeof peer;
	snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length), 0);
	close(fd);
	return peer.pid;
}

/* The process of the node in the catalog's entry (embedded over shm). */
static pid_t node_pid(struct runtime *runtime, unsigned index)
{
	const char *endpoint = runtime->catalog.nodes[index].endpoint;
	char path[FABRIC_ENDPOINT_MAX];
	CHECK(strncmp(endpoint, "shm:", 4) == 0);
	snprintf(path, sizeof path, "%.*s/ctl.sock", (int)(strrchr(endpoint, '/') - endpoint - 4),
		endpoint + 4);
	return listener_pid(path);
}

static uint64_t leased_at(const char *address)
{
	struct ctl_client *client;
	struct ctl_stats stats;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	int error = ctl_ask_stats(client, 5 * NS_PER_S, &stats, NULL);
	ctl_client_close(client);
	CHECK_EQ(error, 0);
	return stats.load.leased_bytes;
}

/* Leased bytes of embedded nodes 0..count-1. */
static uint64_t leased_bytes(unsigned count)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < count; i++) {
		char address[256];
		snprintf(address, sizeof address, "unix:%s/node-%u/ctl.sock", tree_dir, i);
		total += leased_at(address);
	}
	return total;
}

static bool leased_is(struct runtime *runtime, uint64_t bytes)
{
	(void)runtime;
	return leased_bytes(7) == bytes;
}

/* The last runtime leaves: agent and directory must be gone by themselves. */
static void finish(struct runtime *runtime)
{
	int agent = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	CHECK(await_end(agent, WAIT_NS));
	CHECK(access(tree_dir, F_OK) != 0);
}

/* ---- embedded nodes ---- */

TEST(groups_are_filled_over_distinct_nodes)
{
	tree_begin();
	uint64_t begun_ns = clock_now_ns();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, was_welcomed, 0));
	want(runtime, 1);
	printf("     first group %.0f ms after nothing was there\n",
		(double)(clock_now_ns() - begun_ns) / (double)NS_PER_MS);
	want(runtime, 5);
	CHECK(has_nodes(runtime, 7));
	for (unsigned g = 0; g < 5; g++) {
		check_group(runtime, g, 4, 2);
		CHECK_EQ(runtime->catalog.groups[g].state, GROUP_OPEN);
	}
	CHECK_EQ(leased_bytes(7), 5 * 6 * REGION);
	CHECK_STR_EQ(runtime->notices, "");
	CHECK_EQ(runtime->catalog.header->agent_state, 1);
	finish(runtime);
}

TEST(columns_and_parity_are_spread_evenly)
{
	unsigned parity_at[NODES_MAX] = {0}, columns_at[NODES_MAX] = {0};
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 21);
	for (unsigned g = 0; g < 21; g++)
		for (unsigned p = 0; p < 6; p++) {
			unsigned node = runtime->catalog.groups[g].columns[p].node;
			CHECK(node < 7);
			columns_at[node]++;
			parity_at[node] += p >= 4;
		}
	for (unsigned i = 0; i < 7; i++) {
		CHECK(columns_at[i] >= 17 && columns_at[i] <= 19); /* 18 each */
		CHECK(parity_at[i] >= 4 && parity_at[i] <= 8);     /* 6 each */
	}
	finish(runtime);
}

TEST(a_killed_node_goes_down_its_columns_are_lost_and_another_takes_its_place)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 3);
	unsigned victim = runtime->catalog.groups[0].columns[1].node;
	runtime->nodes_told = 0;
	kill(node_pid(runtime, victim), SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(pump(runtime, was_noticed, (uintptr_t) "is down"));
	CHECK(pump(runtime, was_told_of_nodes, 0));
	CHECK_NE(runtime->catalog.nodes[victim].down_since_ns, 0);
	for (unsigned g = 0; g < 3; g++)
		for (unsigned p = 0; p < 6; p++) {
			const struct catalog_group *group = &runtime->catalog.groups[g];
			bool there = group->columns[p].node == victim;
			CHECK_EQ(group->columns[p].lost, there);
			if (there)
				CHECK_EQ(group->state, GROUP_CLOSED);
		}
	CHECK(pump(runtime, has_nodes, 8)); /* it was started again: a new node */
	CHECK_STR_EQ(runtime->catalog.nodes[7].name, runtime->catalog.nodes[victim].name);
	CHECK_NE(runtime->catalog.nodes[7].incarnation, runtime->catalog.nodes[victim].incarnation);
	want(runtime, 6);
	for (unsigned g = 3; g < 6; g++) {
		check_group(runtime, g, 4, 2);
		for (unsigned p = 0; p < 6; p++)
			CHECK_NE(runtime->catalog.groups[g].columns[p].node, victim);
	}
	finish(runtime);
}

TEST(two_killed_nodes_leave_every_group_readable_and_new_groups_whole)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 4);
	kill(node_pid(runtime, 0), SIGKILL);
	kill(node_pid(runtime, 1), SIGKILL);
	CHECK(pump(runtime, node_is_down, 0));
	CHECK(pump(runtime, node_is_down, 1));
	for (unsigned g = 0; g < 4; g++) {
		unsigned lost = 0;
		for (unsigned p = 0; p < 6; p++)
			lost += runtime->catalog.groups[g].columns[p].lost;
		CHECK(lost <= 2);
	}
	want(runtime, 6);
	check_group(runtime, 5, 4, 2);
	finish(runtime);
}

TEST(a_stopped_node_is_suspect_and_comes_back_with_its_bytes)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 1);
	unsigned victim = runtime->catalog.groups[0].columns[0].node;
	pid_t pid = node_pid(runtime, victim);
	kill(pid, SIGSTOP);
	CHECK(pump(runtime, node_is_suspect, victim));
	/* However long: a process that lives has not lost anything. */
	uint64_t until_ns = clock_now_ns() + 5 * NS_PER_S;
	while (clock_now_ns() < until_ns) {
		struct pollfd nothing = {.fd = -1};
		CHECK(node_is_suspect(runtime, victim));
		poll(&nothing, 1, 100);
	}
	kill(pid, SIGCONT);
	CHECK(pump(runtime, node_is_up, victim));
	CHECK_EQ(runtime->catalog.groups[0].columns[0].lost, 0);
	CHECK_EQ(runtime->catalog.groups[0].state, GROUP_OPEN);
	CHECK_EQ(runtime->catalog.header->nodes_count, 7);
	finish(runtime);
}

TEST(a_node_the_runtime_suspects_wrongly_is_up_again_at_once)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 1);
	uint64_t before_ns = clock_now_ns();
	__atomic_store_n(&runtime->catalog.nodes[3].state, NODE_SUSPECT, __ATOMIC_RELEASE);
	say(runtime, MAILBOX_NODE_SUSPECT, 3);
	CHECK(pump(runtime, node_is_up, 3));
	CHECK(clock_now_ns() - before_ns < NS_PER_S);
	finish(runtime);
}

TEST(the_end_of_a_runtime_gives_its_leases_back_and_no_others)
{
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	struct runtime *goes = runtime_begin(2, 1, "");
	want(stays, 2);
	want(goes, 4);
	check_group(goes, 3, 2, 1);
	CHECK_EQ(leased_bytes(7), 2 * 6 * REGION + 4 * 3 * REGION);
	runtime_end(goes);
	CHECK(pump(stays, leased_is, 2 * 6 * REGION));
	finish(stays);
}

TEST(the_end_of_a_runtime_in_the_middle_of_a_reservation_leaks_nothing)
{
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	want(stays, 1);
	for (unsigned i = 0; i < 10; i++) {
		struct runtime *goes = runtime_begin(4, 2, "");
		__atomic_store_n(&goes->catalog.header->groups_wanted, 50, __ATOMIC_RELEASE);
		say(goes, MAILBOX_WANT_GROUPS, 50);
		CHECK(pump(goes, has_groups, i));
		runtime_end(goes);
	}
	CHECK(pump(stays, leased_is, 6 * REGION));
	finish(stays);
}

TEST(four_nodes_for_4_and_2_make_narrower_groups_and_say_so)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "embedded-nodes=4\n");
	want(runtime, 2);
	check_group(runtime, 0, 2, 2);
	check_group(runtime, 1, 2, 2);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "narrower: 2+2"));
	finish(runtime);
}

TEST(one_node_holds_plain_data_and_no_redundancy_is_said)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "embedded-nodes=1\n");
	want(runtime, 1);
	check_group(runtime, 0, 1, 0);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "NO REDUNDANCY"));
	finish(runtime);
}

TEST(full_nodes_are_said_and_room_made_elsewhere_is_used)
{
	tree_begin();
	struct runtime *first = runtime_begin(4, 2, "node-memory=2M\nembedded-nodes=6\n");
	struct runtime *second = runtime_begin(4, 2, "");
	want(second, 1);
	want(first, 1);
	want_in_vain(first, 2);
	CHECK_EQ(first->catalog.header->agent_state, 2);
	CHECK_EQ(first->catalog.header->groups_count, 1);
	CHECK(pump(first, was_noticed, (uintptr_t) "full"));
	runtime_end(second);
	CHECK(pump(first, has_groups, 2));
	check_group(first, 1, 4, 2);
	CHECK_EQ(first->catalog.header->agent_state, 1);
	finish(first);
}

TEST(a_full_node_makes_groups_narrower_but_not_less_safe)
{
	tree_begin();
	/* One node lends one region only: 2+1 takes it once, then k shrinks no further than 2. */
	struct runtime *runtime = runtime_begin(3, 1, "node-memory=1M\nembedded-nodes=5\n");
	want(runtime, 1);
	check_group(runtime, 0, 3, 1);
	want_in_vain(runtime, 2); /* one node has room: 1+0 would fit, and is not taken */
	CHECK_EQ(runtime->catalog.header->groups_count, 1);
	finish(runtime);
}

TEST(embedded_nodes_can_be_reached_by_tcp)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(2, 1, "transport=tcp\n");
	want(runtime, 1);
	for (unsigned i = 0; i < 4; i++)
		CHECK(strncmp(runtime->catalog.nodes[i].endpoint, "tcp:127.0.0.1:", 14) == 0);
	finish(runtime);
}

/* ---- the mailbox, and what a program must not notice ---- */

static volatile sig_atomic_t children_ended;

static void count_child(int number)
{
	(void)number;
	children_ended = children_ended + 1;
}

TEST(starting_the_agent_leaves_no_child_no_signal_and_no_descriptor)
{
	int fds[2];
	char nothing;
	tree_begin();
	children_ended = 0;
	signal(SIGCHLD, count_child);
	CHECK_EQ(pipe(fds), 0); /* inheritable */
	struct runtime *runtime = runtime_begin(2, 1, "");
	CHECK_EQ(close(fds[1]), 0);
	CHECK_EQ(read(fds[0], &nothing, 1), 0); /* nobody else holds it */
	close(fds[0]);
	CHECK_EQ(waitpid(-1, NULL, WNOHANG | __WALL), -1);
	CHECK_EQ(errno, ECHILD);
	pid_t agent = agent_pid(runtime);
	CHECK_NE(getsid(agent), getsid(0));
	finish(runtime);
	CHECK_EQ(children_ended, 0);
	signal(SIGCHLD, SIG_DFL);
}

static void *connect_thread(void *argument)
{
	*(int *)argument = tree_connect();
	return NULL;
}

TEST(programs_that_start_at_once_share_one_agent)
{
	pthread_t threads[6];
	int sockets[6];
	pid_t pid = 0;
	tree_begin();
	for (unsigned i = 0; i < 6; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, connect_thread, &sockets[i]), 0);
	for (unsigned i = 0; i < 6; i++) {
		struct runtime runtime = {.socket = -1};
		pthread_join(threads[i], NULL);
		runtime.socket = sockets[i];
		if (pid == 0)
			pid = agent_pid(&runtime);
		CHECK_EQ(agent_pid(&runtime), pid);
	}
	for (unsigned i = 1; i < 6; i++)
		close(sockets[i]);
	/* It lives 30 s for its first runtime: give it one, so that it ends. */
	struct runtime *runtime = calloc(1, sizeof *runtime);
	struct catalog_options options = {.range_pages = 64,
		.records_max = 64,
		.code_k = 2,
		.code_m = 1,
		.region_bytes = REGION};
	CHECK_EQ(catalog_create(&runtime->catalog, &options), 0);
	runtime->socket = sockets[0];
	hello(runtime, "");
	CHECK(pump(runtime, was_welcomed, 0));
	finish(runtime);
}

TEST(a_killed_agent_is_replaced_and_its_nodes_end_when_nobody_uses_them)
{
	int nodes[3];
	tree_begin();
	struct runtime *old = runtime_begin(2, 1, "embedded-nodes=3\n");
	want(old, 1);
	for (unsigned i = 0; i < 3; i++)
		nodes[i] = pidfd_of(node_pid(old, i));
	int agent = pidfd_of(agent_pid(old));
	kill(agent_pid(old), SIGKILL);
	CHECK(await_end(agent, WAIT_NS));
	CHECK(pump(old, has_ended, 0));
	struct runtime *runtime = runtime_begin(2, 1, "embedded-nodes=3\n");
	want(runtime, 1);
	check_group(runtime, 0, 2, 1);
	/* The old nodes kept their directories meanwhile, for clients that might still read. */
	CHECK(strstr(runtime->catalog.nodes[0].endpoint, "/node-0/") == NULL);
	for (unsigned i = 0; i < 3; i++)
		CHECK(await_end(nodes[i], WAIT_NS));
	runtime_end(old);
	int last = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	CHECK(await_end(last, WAIT_NS));
}

TEST(a_new_program_in_the_agents_last_moments_finds_an_agent)
{
	tree_begin();
	for (unsigned i = 0; i < 3; i++) {
		struct runtime *runtime = runtime_begin(2, 1, "embedded-nodes=3\n");
		want(runtime, 1);
		int agent = pidfd_of(agent_pid(runtime));
		runtime_end(runtime);
		/* Meets every phase of the end: lingering, ending, gone. */
		struct pollfd poller = {.fd = agent, .events = POLLIN};
		poll(&poller, 1, 1950 + 40 * (int)i);
		runtime = runtime_begin(2, 1, "embedded-nodes=3\n");
		want(runtime, 1);
		close(agent);
		runtime_end(runtime);
	}
	struct runtime *runtime = runtime_begin(2, 1, "embedded-nodes=3\n");
	want(runtime, 1);
	finish(runtime);
}

/* ---- bad input on agent.sock ---- */

static void send_raw(const void *bytes, size_t length)
{
	struct runtime runtime = {.socket = tree_connect()};
	(void)!send(runtime.socket, bytes, length, MSG_NOSIGNAL);
	CHECK(pump(&runtime, has_ended, 0));
	close(runtime.socket);
}

TEST(garbage_on_the_agents_socket_closes_that_connection_only)
{
	static struct mailbox_message message;
	tree_begin();
	struct runtime *good = runtime_begin(2, 1, "");
	want(good, 1);
	send_raw("x", 1);
	uint64_t seed = 3;
	for (unsigned i = 0; i < 20; i++) {
		uint8_t *bytes = (uint8_t *)&message;
		for (size_t b = 0; b < sizeof message; b++)
			bytes[b] = (uint8_t)test_random(&seed);
		send_raw(&message, i % 2 ? sizeof message : 20);
	}
	memset(&message, 0, sizeof message);
	message.version = MAILBOX_VERSION + 1;
	message.kind = MAILBOX_HELLO;
	send_raw(&message, sizeof message);
	message.version = MAILBOX_VERSION;
	send_raw(&message, sizeof message); /* HELLO without a catalog */
	message.kind = MAILBOX_WANT_GROUPS;
	send_raw(&message, MAILBOX_HEAD_BYTES); /* before HELLO */
	message.kind = 77;
	send_raw(&message, MAILBOX_HEAD_BYTES);
	want(good, 2);
	finish(good);
}

TEST(a_catalog_that_is_none_is_refused)
{
	tree_begin();
	struct runtime *good = runtime_begin(2, 1, "");
	want(good, 1);
	for (unsigned i = 0; i < 3; i++) {
		struct runtime *bad = calloc(1, sizeof *bad);
		bad->socket = tree_connect();
		bad->catalog.fd = memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		CHECK_EQ(ftruncate(bad->catalog.fd, i == 0 ? 0 : 1 << 20), 0);
		if (i == 2)
			CHECK_EQ(fcntl(bad->catalog.fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK),
				0);
		hello(bad, "");
		CHECK(pump(bad, has_ended, 0));
		close(bad->catalog.fd);
		close(bad->socket);
		free(bad);
	}
	struct runtime *wrong = runtime_begin(2, 1, "no-such-option=1\n");
	CHECK(pump(wrong, has_ended, 0));
	runtime_end(wrong);
	say(good, MAILBOX_NODE_SUSPECT, 200); /* no such node */
	CHECK(pump(good, has_ended, 0));
	runtime_end(good);
}

/* ---- STATS ---- */

static char *ask_stats(int fd)
{
	static char text[1 << 20];
	struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = MAILBOX_STATS};
	size_t used = 0;
	ssize_t got;
	CHECK_EQ(mailbox_send(fd, &message, -1), 0);
	while ((got = recv(fd, text + used, sizeof text - 1 - used, 0)) > 0)
		used += (size_t)got;
	text[used] = '\0';
	return text;
}

static double number_of(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	CHECK(cJSON_IsNumber(item));
	return item->valuedouble;
}

TEST(stats_are_json_with_everything_the_catalog_counts)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 2);
	catalog_count(&runtime->catalog, degraded_reads, 42);
	for (unsigned i = 1; i <= 1000; i++)
		hist_record(&runtime->catalog.stats->fault_ns, i * 1000);
	int fd = tree_connect();
	for (unsigned round = 0; round < 2; round++) { /* the connection may ask again */
		cJSON *root = cJSON_Parse(ask_stats(fd));
		const cJSON *process =
			cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "processes"), 0);
		CHECK(process != NULL);
		CHECK_EQ(number_of(process, "pid"), getpid());
		CHECK_EQ(number_of(process, "degraded_reads"), 42);
		const cJSON *fault = cJSON_GetObjectItemCaseSensitive(process, "fault_ns");
		CHECK_EQ(number_of(fault, "count"), 1000);
		CHECK(number_of(fault, "p50") >= 500000 && number_of(fault, "p50") < 600000);
		CHECK(number_of(fault, "p99") >= 990000);
		CHECK_EQ(number_of(fault, "max"), 1000000);
		const cJSON *group =
			cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(process, "groups"), 0);
		CHECK_EQ(number_of(group, "count"), 2);
		CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(process, "nodes")), 7);
		cJSON_Delete(root);
	}
	close(fd);
	finish(runtime);
}

/* ---- nodes of a list ---- */

struct node {
	pid_t pid;
	int port;
};

/* farmem-memnode with flags; its control port from the ready line. */
static void node_start(struct node *node, int port, const char *host_id)
{
	char path[PATH_MAX], listen_text[64], line[512];
	int fds[2];
	posix_spawn_file_actions_t actions;
	snprintf(path, sizeof path, "%s/farmem-memnode", getenv("FARMEM_BIN"));
	snprintf(listen_text, sizeof listen_text, "127.0.0.1:%d", port);
	static int owner[2];
	char *argv[] = {path, (char[]){"--listen"}, listen_text, (char[]){"--data-listen"},
		(char[]){"127.0.0.1:0"}, (char[]){"--memory"}, (char[]){"64M"},
		(char[]){"--host-id"}, (char *)(uintptr_t)host_id, (char[]){"--ready-fd"},
		(char[]){"9"}, (char[]){"--owner-fd"}, (char[]){"8"}, NULL};
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

static void node_end(struct node *node, int number)
{
	kill(node->pid, number);
	waitpid(node->pid, NULL, 0);
}

/* nodes[0..count) on hosts named by the letters of hosts; their list as configuration. */
static void nodes_start(struct node *nodes, const char *hosts, char *config, size_t size)
{
	size_t used = (size_t)snprintf(config, size, "nodes=");
	for (unsigned i = 0; hosts[i] != '\0'; i++) {
		char host[2] = {hosts[i], '\0'};
		node_start(&nodes[i], 0, host);
		used += (size_t)snprintf(config + used, size - used, "%s127.0.0.1:%d",
			i == 0 ? "" : ",", nodes[i].port);
	}
	snprintf(config + used, size - used, "\n");
}

static uint64_t leased_of(const struct node *node)
{
	char address[64];
	snprintf(address, sizeof address, "127.0.0.1:%d", node->port);
	return leased_at(address);
}

TEST(a_list_of_nodes_serves_and_gets_its_leases_back)
{
	struct node nodes[6];
	char config[512];
	tree_begin();
	nodes_start(nodes, "abcdef", config, sizeof config);
	struct runtime *runtime = runtime_begin(4, 2, config);
	want(runtime, 2);
	check_group(runtime, 0, 4, 2);
	check_group(runtime, 1, 4, 2);
	CHECK_STR_EQ(runtime->notices, "");
	CHECK_EQ(leased_of(&nodes[0]), 2 * REGION);
	finish(runtime);
	for (unsigned i = 0; i < 6; i++) {
		CHECK_EQ(leased_of(&nodes[i]), 0);
		node_end(&nodes[i], SIGTERM);
	}
}

TEST(a_listed_node_that_is_killed_and_restarted_is_a_new_node)
{
	struct node nodes[3];
	char config[512];
	tree_begin();
	nodes_start(nodes, "abc", config, sizeof config);
	struct runtime *runtime = runtime_begin(2, 1, config);
	want(runtime, 1);
	uint64_t before_ns = clock_now_ns();
	node_end(&nodes[1], SIGKILL);
	unsigned victim = 0;
	for (unsigned i = 0; i < 3; i++)
		if (atoi(strrchr(runtime->catalog.nodes[i].name, ':') + 1) == nodes[1].port)
			victim = i;
	say(runtime, MAILBOX_NODE_SUSPECT, victim);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(clock_now_ns() - before_ns < 2 * NS_PER_S); /* refused: no need of three silences */
	CHECK(pump(runtime, was_noticed, (uintptr_t) "is down"));
	want(runtime, 2);
	check_group(runtime, 1, 1, 1); /* two hosts */
	node_start(&nodes[1], nodes[1].port, "b");
	CHECK(pump(runtime, has_nodes, 4));
	CHECK_NE(runtime->catalog.nodes[3].incarnation, runtime->catalog.nodes[victim].incarnation);
	CHECK(node_is_down(runtime, victim));
	want(runtime, 3);
	check_group(runtime, 2, 2, 1);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "2+1 again"));
	finish(runtime);
	for (unsigned i = 0; i < 3; i++)
		node_end(&nodes[i], SIGTERM);
}

TEST(a_listed_node_that_is_silent_goes_down_but_never_takes_the_last_bytes)
{
	struct node nodes[3];
	char config[512];
	tree_begin();
	nodes_start(nodes, "abc", config, sizeof config);
	struct runtime *runtime = runtime_begin(2, 1, config);
	want(runtime, 1);
	for (unsigned i = 0; i < 3; i++)
		kill(nodes[i].pid, SIGSTOP);
	for (unsigned i = 0; i < 3; i++)
		CHECK(pump(runtime, was_noticed, (uintptr_t) "no answer for"));
	unsigned down = 0, suspect = 0;
	uint64_t until_ns = clock_now_ns() + 4 * NS_PER_S;
	while (clock_now_ns() < until_ns)
		(void)pump(runtime, has_groups, 1), poll(NULL, 0, 50);
	for (unsigned i = 0; i < 3; i++) {
		down += node_is_down(runtime, i);
		suspect += node_is_suspect(runtime, i);
	}
	CHECK_EQ(down, 1); /* 2+1 can do without one */
	CHECK_EQ(suspect, 2);
	for (unsigned i = 0; i < 3; i++)
		kill(nodes[i].pid, SIGCONT);
	for (unsigned i = 0; i < 3; i++)
		if (!node_is_down(runtime, i))
			CHECK(pump(runtime, node_is_up, i));
	CHECK(pump(runtime, has_nodes, 4)); /* the one given up joins anew */
	finish(runtime);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(leased_of(&nodes[i]), 0); /* what it held for us was given back too */
		node_end(&nodes[i], SIGTERM);
	}
}

TEST(two_names_of_one_node_and_nodes_on_one_host_count_once)
{
	struct node nodes[4];
	char config[512], list[700];
	tree_begin();
	nodes_start(nodes, "aabc", config, sizeof config);
	config[strcspn(config, "\n")] = '\0';
	snprintf(list, sizeof list, "%s,localhost:%d\n", config, nodes[2].port);
	struct runtime *runtime = runtime_begin(4, 2, list);
	want(runtime, 2);
	check_group(runtime, 0, 2, 1); /* three hosts: a, b, c */
	check_group(runtime, 1, 2, 1);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "same host"));
	CHECK(pump(runtime, was_noticed, (uintptr_t) "same node"));
	CHECK_EQ(runtime->catalog.header->nodes_count, 4);
	finish(runtime);
	for (unsigned i = 0; i < 4; i++)
		node_end(&nodes[i], SIGTERM);
}

TEST(a_listed_node_that_does_not_answer_is_said_and_the_others_serve)
{
	struct node nodes[3];
	char config[512], list[700], word[64];
	struct node gone;
	tree_begin();
	node_start(&gone, 0, "z");
	node_end(&gone, SIGTERM);
	nodes_start(nodes, "abc", config, sizeof config);
	config[strcspn(config, "\n")] = '\0';
	snprintf(list, sizeof list, "%s,127.0.0.1:%d\n", config, gone.port);
	snprintf(word, sizeof word, "127.0.0.1:%d", gone.port);
	struct runtime *runtime = runtime_begin(2, 1, list);
	want(runtime, 1);
	check_group(runtime, 0, 2, 1);
	CHECK(pump(runtime, was_noticed, (uintptr_t)word));
	node_start(&gone, gone.port, "z");
	CHECK(pump(runtime, has_nodes, 4));
	CHECK(pump(runtime, was_noticed, (uintptr_t) "answers now"));
	finish(runtime);
	node_end(&gone, SIGTERM);
	for (unsigned i = 0; i < 3; i++)
		node_end(&nodes[i], SIGTERM);
}

/* The directory above this program: where the programs of a build tree lie. */
static void find_programs(char **argv)
{
	char path[PATH_MAX];
	if (getenv("FARMEM_BIN") != NULL)
		return;
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	if (length <= 0)
		abort();
	path[length] = '\0';
	*strrchr(path, '/') = '\0';
	*strrchr(path, '/') = '\0';
	setenv("FARMEM_BIN", path, 1);
	execv("/proc/self/exe", argv);
	abort();
}

int main(int argc, char **argv)
{
	find_programs(argv);
	int status = test_main(argc, argv);
	if (base_dir[0] != '\0' && rmdir(base_dir) != 0)
		printf("left behind: %s\n", base_dir);
	return status;
}
