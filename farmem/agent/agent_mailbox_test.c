/*
 * farmem/agent/agent_mailbox_test.c: connecting to the agent, starting it unnoticed, and what it
 * makes of connections that do not behave.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "farmem/agent/agent_fake.h"

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

TEST(a_killed_agent_is_replaced_and_its_nodes_are_taken_over)
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
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(runtime->catalog.nodes[i].incarnation, old->catalog.nodes[i].incarnation);
	/* The old program has not come back for its bytes: nobody ends the nodes that hold them. */
	int last = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	struct pollfd poller = {.fd = last, .events = POLLIN};
	CHECK_EQ(poll(&poller, 1, 4000), 0);
	old->socket = tree_connect();
	old->ended = false;
	hello(old, "embedded-nodes=3\n");
	CHECK(pump(old, was_welcomed, 0));
	runtime_end(old);
	CHECK(await_end(last, WAIT_NS));
	for (unsigned i = 0; i < 3; i++)
		CHECK(await_end(nodes[i], WAIT_NS));
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
