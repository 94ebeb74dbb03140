/*
 * farmem/agent/agent_list_test.c: the agent with a list of nodes, each a real daemon on a port of
 * its own.
 */
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

#include "farmem/agent/agent_fake.h"

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

/* The first so many nodes of the catalog, all of them. A group that is wanted before that waits for
 * late ones only so long (AGENT_SETTLE_NS), and is rightly narrower on a machine that is busier. */
static bool all_are_up(struct runtime *runtime, uint64_t count)
{
	bool up = has_nodes(runtime, count);
	for (uint64_t i = 0; i < count && up; i++)
		up = node_is_up(runtime, i);
	return up;
}

TEST(a_list_of_nodes_serves_and_gets_its_leases_back)
{
	struct node nodes[6];
	char config[512];
	tree_begin();
	nodes_start(nodes, "abcdef", config, sizeof config);
	struct runtime *runtime = runtime_begin(4, 2, config);
	CHECK(pump(runtime, all_are_up, 6));
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
	CHECK(pump(runtime, all_are_up, 4));
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

/* ---- a busy node ---- */

static bool node_is_busy(struct runtime *runtime, uint64_t index)
{
	return atomic_load(&runtime->catalog.nodes[index].busy) != 0;
}

static bool node_is_not_busy(struct runtime *runtime, uint64_t index)
{
	return !node_is_busy(runtime, index);
}

/* Reads that keep a node at work all the time. */
struct reader {
	const char *endpoint;
	struct fabric_capability capability;
	_Atomic bool stop;
	pthread_t thread;
};

static void *reader_main(void *argument)
{
	static uint8_t page[4096];
	struct reader *reader = argument;
	struct fabric_queue_options options = {.depth = 8};
	struct iovec iov = {page, sizeof page};
	struct fabric_queue *queue;
	struct fabric_region *region;
	struct fabric_completion done;
	if (fabric_queue_open(&options, &queue) != 0)
		return NULL;
	bool attached = fabric_attach(queue, reader->endpoint, &reader->capability,
				clock_now_ns() + 10 * NS_PER_S, &region) == 0;
	while (attached && !atomic_load(&reader->stop)) {
		struct fabric_transfer transfer = {
			.iov = &iov, .iov_count = 1, .deadline_ns = clock_now_ns() + 10 * NS_PER_S};
		if (fabric_post_read(region, &transfer) != 0 ||
			fabric_wait(queue, &done, 1, transfer.deadline_ns) != 1 || done.status != 0)
			break;
	}
	fabric_queue_close(queue);
	return NULL;
}

/* Where the node is in the catalog. */
static unsigned reader_begin(
	struct reader *reader, struct runtime *runtime, const struct node *node, unsigned count)
{
	unsigned index = 0, position = 0;
	for (unsigned i = 0; i < count; i++)
		if (atoi(strrchr(runtime->catalog.nodes[i].name, ':') + 1) == node->port)
			index = i;
	while (catalog_column_node(&runtime->catalog.groups[0].columns[position]) != index)
		position++;
	reader->endpoint = runtime->catalog.nodes[index].endpoint;
	reader->capability = catalog_cur(&runtime->catalog.groups[0].columns[position])->capability;
	CHECK_EQ(pthread_create(&reader->thread, NULL, reader_main, reader), 0);
	return index;
}

TEST(where_requests_wait_no_new_columns_go_while_there_are_others)
{
	struct node nodes[5];
	struct reader reader = {0};
	char config[512];
	tree_begin();
	/* Each reply of the first takes 40 ms. */
	setenv("FARMEM_SLOW_READS", "40ms", 1);
	node_start(&nodes[0], 0, "a");
	unsetenv("FARMEM_SLOW_READS");
	snprintf(config, sizeof config, "nodes=127.0.0.1:%d", nodes[0].port);
	for (unsigned i = 1; i < 5; i++) {
		node_start(&nodes[i], 0, (char[]){(char)('a' + i), '\0'});
		snprintf(config + strlen(config), sizeof config - strlen(config), ",127.0.0.1:%d",
			nodes[i].port);
	}
	snprintf(config + strlen(config), sizeof config - strlen(config), "\n");
	struct runtime *runtime = runtime_begin(3, 1, config);
	CHECK(pump(runtime, all_are_up, 5));
	want(runtime, 1);
	check_group(runtime, 0, 3, 1);
	unsigned busy = reader_begin(&reader, runtime, &nodes[0], 5);
	CHECK(pump(runtime, node_is_busy, busy));
	want(runtime, 2); /* the one with nothing so far, and three of four with one region each */
	check_group(runtime, 1, 3, 1);
	for (unsigned p = 0; p < 4; p++)
		CHECK_NE(catalog_column_node(&runtime->catalog.groups[1].columns[p]), busy);
	atomic_store(&reader.stop, true);
	pthread_join(reader.thread, NULL);
	CHECK(pump(runtime, node_is_not_busy, busy));
	finish(runtime);
	for (unsigned i = 0; i < 5; i++)
		node_end(&nodes[i], SIGTERM);
}
