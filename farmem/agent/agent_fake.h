/*
 * farmem/agent/agent_fake.h: a runtime played by a test program, towards a real farmem-agent with
 * real memory nodes. Included by agent_*_test.c, once per program.
 *
 * The programs are found by FARMEM_BIN, which main sets to the directory above the test (the top
 * of the build tree) and then starts itself again, because the mailbox reads the environment a
 * process was started with.
 */
#ifndef FM_FARMEM_AGENT_AGENT_FAKE_H
#define FM_FARMEM_AGENT_AGENT_FAKE_H

#define TEST_MAIN_OWN
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/test.h"
#include "farmem/catalog.h"
#include "farmem/mailbox.h"
#include "rpc/ctl_memnode.h"

#define MIB (1ull << 20)
#define REGION (1 * MIB)
#define WAIT_NS (20 * NS_PER_S)

/* ---- a tree, a runtime ---- */

static char base_dir[64], tree_dir[128];
static unsigned tree_number;

static inline void tree_begin(void)
{
	if (base_dir[0] == '\0') {
		snprintf(base_dir, sizeof base_dir, "/tmp/farmem-agent-test-XXXXXX");
		CHECK(mkdtemp(base_dir) != NULL);
	}
	snprintf(tree_dir, sizeof tree_dir, "%s/t%u", base_dir, ++tree_number);
}

static inline const char *tree_name(void)
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

static inline int tree_connect(void)
{
	int fd = mailbox_connect(base_dir, tree_name(), clock_now_ns() + WAIT_NS);
	CHECK(fd >= 0);
	return fd;
}

static inline void say(struct runtime *runtime, uint32_t kind, int64_t value)
{
	struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = kind, .value = value};
	CHECK_EQ(mailbox_send(runtime->socket, &message, -1), 0);
}

static inline void hello(struct runtime *runtime, const char *config)
{
	static struct mailbox_message message;
	memset(&message, 0, sizeof message);
	message.version = MAILBOX_VERSION;
	message.kind = MAILBOX_HELLO;
	snprintf(message.text, sizeof message.text, "%s", config);
	CHECK_EQ(mailbox_send(runtime->socket, &message, runtime->catalog.fd), 0);
}

/* A runtime of code k+m, not connected yet. */
static inline struct runtime *runtime_make(uint32_t k, uint32_t m)
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
	runtime->socket = -1;
	return runtime;
}

/* The same, said HELLO with configuration lines. */
static inline struct runtime *runtime_begin(uint32_t k, uint32_t m, const char *config)
{
	struct runtime *runtime = runtime_make(k, m);
	runtime->socket = tree_connect();
	hello(runtime, config);
	return runtime;
}

static inline void runtime_end(struct runtime *runtime)
{
	close(runtime->socket);
	catalog_close(&runtime->catalog);
	free(runtime);
}

static inline void take(struct runtime *runtime, const struct mailbox_message *message)
{
	size_t used = strlen(runtime->notices);
	switch (message->kind) {
	case MAILBOX_WELCOME:
		runtime->welcome = true;
		break;
	case MAILBOX_NODES:
		runtime->nodes_told++;
		break;
	case MAILBOX_WORK:
	case MAILBOX_DONE:
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
		CHECK_EQ(message->kind, MAILBOX_NOTICE); /* of a kind we do not know */
	}
}

/* Takes messages until `done` holds; the agent's silence is bounded by WAIT_NS. */
static inline bool pump(
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

static inline bool has_groups(struct runtime *runtime, uint64_t count)
{
	return atomic_load_explicit(&runtime->catalog.header->groups_count, memory_order_acquire) >=
	       count;
}

static inline bool has_nodes(struct runtime *runtime, uint64_t count)
{
	return atomic_load_explicit(&runtime->catalog.header->nodes_count, memory_order_acquire) >=
	       count;
}

static inline bool was_welcomed(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->welcome;
}

static inline bool has_ended(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->ended;
}

static inline bool was_told_full(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->groups_told > 0 && runtime->groups_value == -ENOMEM;
}

static inline bool was_told_of_nodes(struct runtime *runtime, uint64_t unused)
{
	(void)unused;
	return runtime->nodes_told > 0;
}

static inline uint32_t node_state(struct runtime *runtime, uint64_t index)
{
	return atomic_load_explicit(&runtime->catalog.nodes[index].state, memory_order_acquire);
}

static inline bool node_is_down(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_DOWN;
}

static inline bool node_is_suspect(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_SUSPECT;
}

static inline bool node_is_up(struct runtime *runtime, uint64_t index)
{
	return node_state(runtime, index) == NODE_UP;
}

static inline bool was_noticed(struct runtime *runtime, uint64_t word)
{
	return strstr(runtime->notices, (const char *)(uintptr_t)word) != NULL;
}

static inline void want(struct runtime *runtime, uint32_t groups)
{
	atomic_store_explicit(
		&runtime->catalog.header->groups_wanted, groups, memory_order_release);
	say(runtime, MAILBOX_WANT_GROUPS, groups);
	CHECK(pump(runtime, has_groups, groups));
}

static inline void want_in_vain(struct runtime *runtime, uint32_t groups)
{
	runtime->groups_told = 0;
	atomic_store_explicit(
		&runtime->catalog.header->groups_wanted, groups, memory_order_release);
	say(runtime, MAILBOX_WANT_GROUPS, groups);
	CHECK(pump(runtime, was_told_full, 0));
}

/* Group g: k+m distinct nodes on distinct hosts, all named columns plausible. */
static inline void check_group(struct runtime *runtime, unsigned g, unsigned k, unsigned m)
{
	const struct catalog_group *group = &runtime->catalog.groups[g];
	CHECK_EQ(group->k, k);
	CHECK_EQ(group->m, m);
	CHECK_EQ(group->slot_count, REGION / FM_PAGE_SIZE);
	for (unsigned p = 0; p < k + m; p++) {
		const struct catalog_place *column =
			catalog_cur((struct catalog_column *)(uintptr_t)&group->columns[p]);
		const struct catalog_node *node = &runtime->catalog.nodes[column->node];
		CHECK(has_nodes(runtime, column->node + 1u));
		CHECK_EQ(column->capability.incarnation, node->incarnation);
		CHECK_NE(column->capability.lease, 0);
		for (unsigned q = 0; q < p; q++)
			CHECK_NE(node->host,
				runtime->catalog.nodes[catalog_column_node(&group->columns[q])]
					.host);
	}
}

/* ---- processes ---- */

static inline int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	CHECK(fd >= 0);
	return fd;
}

static inline bool await_end(int pidfd, uint64_t wait_ns)
{
	struct pollfd poller = {.fd = pidfd, .events = POLLIN};
	int ready = poll(&poller, 1, (int)(wait_ns / NS_PER_MS));
	close(pidfd);
	return ready == 1;
}

static inline pid_t agent_pid(const struct runtime *runtime)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK_EQ(getsockopt(runtime->socket, SOL_SOCKET, SO_PEERCRED, &peer, &length), 0);
	return peer.pid;
}

/* The agent's worker: the child of its supervisor that is no node. 0: there is none just now. */
static inline pid_t worker_of(pid_t supervisor)
{
	char path[64], children[4096], name[32];
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", supervisor, supervisor);
	FILE *file = fopen(path, "re");
	size_t length = file != NULL ? fread(children, 1, sizeof children - 1, file) : 0;
	if (file != NULL)
		fclose(file);
	children[length] = '\0';
	for (char *at = children; *at != '\0';) {
		char *end;
		long pid = strtol(at, &end, 10);
		snprintf(path, sizeof path, "/proc/%ld/comm", pid);
		file = end != at ? fopen(path, "re") : NULL;
		bool found = file != NULL && fgets(name, sizeof name, file) != NULL &&
			     strcmp(name, "farmem-worker\n") == 0;
		if (file != NULL)
			fclose(file);
		if (found)
			return (pid_t)pid;
		if (end == at)
			break;
		at = end + strspn(end, " ");
	}
	return 0;
}

/* The process behind a unix socket path, by asking the kernel who listens there. */
static inline pid_t listener_pid(const char *path)
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
static inline pid_t node_pid(struct runtime *runtime, unsigned index)
{
	const char *endpoint = runtime->catalog.nodes[index].endpoint;
	char path[FABRIC_ENDPOINT_MAX];
	CHECK(strncmp(endpoint, "shm:", 4) == 0);
	snprintf(path, sizeof path, "%.*s/ctl.sock", (int)(strrchr(endpoint, '/') - endpoint - 4),
		endpoint + 4);
	return listener_pid(path);
}

static inline uint64_t leased_at(const char *address)
{
	struct ctl_client *client;
	struct ctl_stats stats;
	uint64_t until_ns = clock_now_ns() + 10 * NS_PER_S;
	int error;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	/* Groups do not wait for the last node to have started. */
	while ((error = ctl_ask_stats(client, 5 * NS_PER_S, &stats, NULL)) == -ECONNREFUSED &&
		clock_now_ns() < until_ns)
		poll(NULL, 0, 20);
	ctl_client_close(client);
	CHECK_EQ(error, 0);
	return stats.load.leased_bytes;
}

/* Leased bytes of embedded nodes 0..count-1. */
static inline uint64_t leased_bytes(unsigned count)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < count; i++) {
		char address[256];
		snprintf(address, sizeof address, "unix:%s/node-%u/ctl.sock", tree_dir, i);
		total += leased_at(address);
	}
	return total;
}

static inline bool leased_is(struct runtime *runtime, uint64_t bytes)
{
	(void)runtime;
	return leased_bytes(7) == bytes;
}

/* The last runtime leaves: agent and directory must be gone by themselves. */
static inline void finish(struct runtime *runtime)
{
	int agent = pidfd_of(agent_pid(runtime));
	runtime_end(runtime);
	CHECK(await_end(agent, WAIT_NS));
	CHECK(access(tree_dir, F_OK) != 0);
}

/* The directory above this program: where the programs of a build tree lie. */
static inline void find_programs(char **argv)
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

#endif
