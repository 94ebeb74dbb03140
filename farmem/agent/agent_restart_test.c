/*
 * farmem/agent/agent_restart_test.c: the agent is killed, half of it or all of it, at any moment:
 * whoever it served goes on, nothing is lost and nothing leaks. Real agent, real nodes, kill -9.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "farmem/agent/agent_fake.h"

#define NODES 7
#define RANDOM_KILLS 24
#define RANDOM_AGENTS 8
#define SETTLE_NS                                                                                  \
	(40 * NS_PER_S) /* a lease that nobody knows goes back after --keepalive, 15 s             \
			 */

/* ---- killing ---- */

/* Kills the worker; returns when it is dead. False: there was none just now. */
static bool kill_worker(pid_t supervisor)
{
	pid_t worker = worker_of(supervisor);
	int pidfd = worker > 0 ? (int)syscall(SYS_pidfd_open, worker, 0) : -1;
	if (pidfd < 0)
		return false;
	kill(worker, SIGKILL);
	return await_end(pidfd, WAIT_NS);
}

static void kill_supervisor(pid_t supervisor)
{
	int pidfd = pidfd_of(supervisor);
	kill(supervisor, SIGKILL);
	CHECK(await_end(pidfd, WAIT_NS));
}

static bool worker_is_new(struct runtime *runtime, uint64_t old)
{
	pid_t worker = worker_of(agent_pid(runtime));
	return worker != 0 && worker != (pid_t)old;
}

static bool starts_are(struct runtime *runtime, uint64_t count)
{
	return atomic_load_explicit(&runtime->catalog.stats->agent_starts, memory_order_acquire) >=
	       count;
}

/* The runtime's own part in it (agent_link.c): connects again, says HELLO with the same catalog.
 * An agent's last moments may hear it, and nobody after. */
static void reconnect(struct runtime *runtime, const char *config)
{
	runtime->welcome = false;
	do {
		struct mailbox_message message = {
			.version = MAILBOX_VERSION, .kind = MAILBOX_HELLO};
		if (runtime->socket >= 0)
			close(runtime->socket);
		runtime->socket = tree_connect();
		runtime->ended = false;
		snprintf(message.text, sizeof message.text, "%s", config);
		(void)!mailbox_send(runtime->socket, &message, runtime->catalog.fd);
	} while (!pump(runtime, was_welcomed, 0) && runtime->ended);
	CHECK(runtime->welcome);
}

/* ---- what must not change ---- */

struct picture {
	unsigned groups, nodes;
	struct catalog_group group[64];
	uint64_t incarnation[NODES];
};

static void picture_take(struct runtime *runtime, struct picture *picture)
{
	picture->groups = runtime->catalog.header->groups_count;
	picture->nodes = FM_MIN(runtime->catalog.header->nodes_count, (uint32_t)NODES);
	memcpy(picture->group, runtime->catalog.groups, picture->groups * sizeof picture->group[0]);
	for (unsigned i = 0; i < picture->nodes; i++)
		picture->incarnation[i] = runtime->catalog.nodes[i].incarnation;
}

static void picture_check(struct runtime *runtime, const struct picture *picture)
{
	CHECK_EQ(runtime->catalog.header->groups_count, picture->groups);
	CHECK_EQ(memcmp(runtime->catalog.groups, picture->group,
			 picture->groups * sizeof picture->group[0]),
		0);
	for (unsigned i = 0; i < picture->nodes; i++) {
		CHECK_EQ(runtime->catalog.nodes[i].incarnation, picture->incarnation[i]);
		CHECK_EQ(node_state(runtime, i), NODE_UP);
	}
}

/* What the catalog says it holds. */
static uint64_t catalog_bytes(const struct runtime *runtime)
{
	uint64_t columns = 0;
	for (unsigned g = 0; g < runtime->catalog.header->groups_count; g++)
		columns += runtime->catalog.groups[g].k + runtime->catalog.groups[g].m;
	return columns * REGION;
}

static bool leased_at_most(struct runtime *runtime, uint64_t bytes)
{
	(void)runtime;
	return leased_bytes(NODES) <= bytes;
}

static bool leased_settled(unsigned nodes, uint64_t bytes)
{
	uint64_t until_ns = clock_now_ns() + SETTLE_NS;
	while (leased_bytes(nodes) != bytes) {
		if (clock_now_ns() >= until_ns)
			return false;
		poll(NULL, 0, 100);
	}
	return true;
}

/* ---- scenarios: each in a process of its own, all at once, for they mostly wait ---- */

static const char *const scenarios[] = {"workers", "agents", "hello", "hello.kept", "serve.welcome",
	"restore", "adopt.member", "adopt.group", "adopt.shown", "adopt.repairs", "reserve.sent",
	"reserve.answered", "show.filled", "show.open", "show.counted", "release.answered",
	"node.start", "node.made", "node.sealed", "node.down", "end"};

static pid_t scenario_pids[FM_ARRAY_COUNT(scenarios)];

static pid_t scenario_start(const char *name)
{
	char self[] = "/proc/self/exe", word[] = "a_worker_killed_anywhere", faults[64];
	char *argv[] = {self, word, NULL};
	fflush(stdout);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setenv("AGENT_SCENARIO", name, 1);
	snprintf(faults, sizeof faults, "agent.die.%s=1", name);
	if (strcmp(name, "workers") != 0 && strcmp(name, "agents") != 0)
		setenv("FARMEM_FAULTS", faults, 1);
	execv(self, argv);
	_exit(127);
}

static void scenarios_start(void)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(scenarios) && scenario_pids[i] == 0; i++)
		scenario_pids[i] = scenario_start(scenarios[i]);
}

/* ---- the worker ---- */

TEST(a_killed_worker_is_replaced_and_the_program_does_not_notice)
{
	static struct picture before;
	scenarios_start();
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 3);
	picture_take(runtime, &before);
	pid_t supervisor = agent_pid(runtime);
	for (unsigned i = 0; i < 5; i++) {
		runtime->welcome = false;
		uint64_t killed_ns = clock_now_ns();
		CHECK(kill_worker(supervisor));
		CHECK(pump(runtime, was_welcomed, 0));
		printf("     served again after %.0f ms\n",
			(double)(clock_now_ns() - killed_ns) / (double)NS_PER_MS);
		picture_check(runtime, &before);
	}
	CHECK(starts_are(runtime, 6));
	CHECK_EQ(agent_pid(runtime), supervisor);
	CHECK_STR_EQ(runtime->notices, "");
	CHECK_EQ(leased_bytes(NODES), 3 * 6 * REGION);
	want(runtime, 5);
	check_group(runtime, 4, 4, 2);
	CHECK_EQ(leased_bytes(NODES), 5 * 6 * REGION);
	finish(runtime);
}

TEST(what_was_said_while_no_worker_ran_is_heard)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 1);
	pid_t worker = worker_of(agent_pid(runtime));
	kill(worker, SIGSTOP); /* our own: started by this test */
	atomic_store_explicit(&runtime->catalog.nodes[2].state, NODE_SUSPECT, memory_order_release);
	say(runtime, MAILBOX_NODE_SUSPECT, 2);
	atomic_store_explicit(&runtime->catalog.header->groups_wanted, 2, memory_order_release);
	say(runtime, MAILBOX_WANT_GROUPS, 2);
	kill(worker, SIGKILL);
	CHECK(pump(runtime, has_groups, 2));
	CHECK(pump(runtime, node_is_up, 2));
	finish(runtime);
}

TEST(a_runtime_that_ends_while_no_worker_runs_is_released_by_the_next)
{
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, NODES));
	struct runtime *goes = runtime_begin(2, 1, "");
	want(stays, 1);
	want(goes, 3);
	pid_t worker = worker_of(agent_pid(stays));
	kill(worker, SIGSTOP);
	runtime_end(goes);
	kill(worker, SIGKILL);
	CHECK(pump(stays, leased_is, 6 * REGION));
	/* And one that ends as the worker dies over it. */
	goes = runtime_begin(2, 1, "");
	want(goes, 3);
	runtime_end(goes);
	CHECK(kill_worker(agent_pid(stays)));
	CHECK(pump(stays, leased_is, 6 * REGION));
	finish(stays);
}

/* What a program gives along with its catalog: mapped by it and by whoever is forked from it. */
static int life_open(void **memory)
{
	int fd = memfd_create("life", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0);
	CHECK_EQ(ftruncate(fd, FM_PAGE_SIZE), 0);
	*memory = mmap(NULL, FM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(*memory != MAP_FAILED);
	return fd;
}

static struct runtime *runtime_begin_with_life(int life)
{
	static struct mailbox_message message;
	struct runtime *runtime = runtime_make(4, 2);
	message.version = MAILBOX_VERSION;
	message.kind = MAILBOX_HELLO;
	runtime->socket = tree_connect();
	const int fds[MAILBOX_FDS_MAX] = {runtime->catalog.fd, life};
	CHECK_EQ(mailbox_send_fds(runtime->socket, &message, fds, 2), 0);
	return runtime;
}

/* Forked from a program: nothing of it but what it has mapped. Ends when `until` does. */
static pid_t child_start(const int fds[2], int until, int ready)
{
	char byte = 0;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid > 0)
		return pid;
	close(fds[0]);
	close(fds[1]);
	(void)!write(ready, &byte, 1);
	(void)!read(until, &byte, 1);
	_exit(0);
}

TEST(a_dead_programs_leases_stay_until_its_last_forked_child_is_gone)
{
	int until[2], ready[2];
	void *memory;
	char byte;
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, NODES));
	want(stays, 1);
	pid_t supervisor = agent_pid(stays);
	int life = life_open(&memory);
	struct runtime *goes = runtime_begin_with_life(life);
	want(goes, 2);
	CHECK_EQ(pipe2(until, O_CLOEXEC) | pipe2(ready, O_CLOEXEC), 0);
	pid_t child = child_start((int[]){goes->socket, life}, until[0], ready[1]);
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	CHECK_EQ(munmap(memory, FM_PAGE_SIZE), 0);
	close(life);
	runtime_end(goes);
	/* Nor does a new worker take them back, which finds the program gone. */
	for (unsigned i = 0; i < 2; i++) {
		stays->welcome = false;
		CHECK(kill_worker(supervisor));
		CHECK(pump(stays, was_welcomed, 0));
		want(stays, 2 + i);
		CHECK_EQ(leased_bytes(NODES), (2 + 2 + i) * 6 * REGION);
	}
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	CHECK(pump(stays, leased_is, 3 * 6 * REGION));
	close(until[0]);
	close(until[1]);
	close(ready[0]);
	close(ready[1]);
	finish(stays);
}

TEST(a_node_that_ends_while_no_worker_runs_is_down_and_started_again)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 1);
	unsigned victim = catalog_column_node(&runtime->catalog.groups[0].columns[0]);
	pid_t node = node_pid(runtime, victim);
	pid_t worker = worker_of(agent_pid(runtime));
	kill(worker, SIGSTOP);
	kill(node, SIGKILL);
	kill(worker, SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(pump(runtime, has_nodes, NODES + 1));
	CHECK_STR_EQ(runtime->catalog.nodes[NODES].name, runtime->catalog.nodes[victim].name);
	finish(runtime);
}

/* A program that is stopped (or debugged, or frozen): its socket stays, and that is all. */
TEST(a_stopped_program_keeps_its_leases_through_a_restart)
{
	int ready[2];
	char byte;
	tree_begin();
	struct runtime *runtime = runtime_begin(2, 1, "");
	want(runtime, 1);
	CHECK_EQ(pipe2(ready, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct runtime *own = runtime_begin(4, 2, "");
		want(own, 2);
		(void)!write(ready[1], "x", 1);
		for (;;)
			pause();
	}
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	CHECK(pump(runtime, leased_is, (3 + 12) * REGION));
	kill(child, SIGSTOP);
	pid_t old = worker_of(agent_pid(runtime));
	CHECK(kill_worker(agent_pid(runtime)));
	CHECK(pump(runtime, worker_is_new, (uint64_t)old));
	CHECK(pump(runtime, starts_are, 2));
	for (unsigned i = 0; i < 30; i++) {
		CHECK_EQ(leased_bytes(NODES), (3 + 12) * REGION);
		poll(NULL, 0, 100);
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	CHECK(pump(runtime, leased_is, 3 * REGION));
	close(ready[0]);
	close(ready[1]);
	finish(runtime);
}

/* ---- what the scenarios do ---- */

struct killer {
	pid_t supervisor;
	_Atomic uint32_t killed;
	_Atomic bool stop;
};

static void *kill_again_and_again(void *context)
{
	struct killer *killer = context;
	uint64_t seed = 7;
	while (!atomic_load(&killer->stop)) {
		poll(NULL, 0, (int)(test_random(&seed) % 600));
		atomic_fetch_add(&killer->killed, kill_worker(killer->supervisor));
	}
	return NULL;
}

/* Attaches, through deaths of the worker that hears its HELLO. */
static struct runtime *attach(uint32_t k, uint32_t m, const char *config)
{
	struct runtime *runtime = runtime_make(k, m);
	reconnect(runtime, config);
	return runtime;
}

static void want_through_deaths(struct runtime *runtime, uint32_t groups)
{
	atomic_store_explicit(
		&runtime->catalog.header->groups_wanted, groups, memory_order_release);
	say(runtime, MAILBOX_WANT_GROUPS, groups);
	CHECK(pump(runtime, has_groups, groups));
}

/* Programs come, get memory and go, while the worker is killed at random moments. */
static void scenario_workers(void)
{
	static struct picture before;
	struct killer killer = {0};
	pthread_t thread;
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, NODES));
	want(stays, 4);
	picture_take(stays, &before);
	killer.supervisor = agent_pid(stays);
	CHECK_EQ(pthread_create(&thread, NULL, kill_again_and_again, &killer), 0);
	unsigned rounds = 0;
	while (atomic_load(&killer.killed) < RANDOM_KILLS) {
		struct runtime *goes = attach(4, 2, "");
		want_through_deaths(goes, 1 + rounds % 3);
		check_group(goes, 0, 4, 2);
		runtime_end(goes);
		rounds++;
	}
	atomic_store(&killer.stop, true);
	pthread_join(thread, NULL);
	printf("     %u rounds through %u deaths\n", rounds, atomic_load(&killer.killed));
	CHECK_EQ(agent_pid(stays), killer.supervisor);
	CHECK(leased_settled(NODES, 4 * 6 * REGION));
	picture_check(stays, &before);
	want(stays, 6);
	CHECK_EQ(leased_bytes(NODES), catalog_bytes(stays));
	finish(stays);
}

/* The same with all of the agent. Programs that are there come again, as agent_link.c does. */
static void scenario_agents(void)
{
	static struct picture before;
	uint64_t seed = 11;
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, NODES));
	want(stays, 2);
	picture_take(stays, &before);
	for (unsigned i = 0; i < RANDOM_AGENTS; i++) {
		struct runtime *goes = attach(4, 2, "");
		atomic_store_explicit(
			&goes->catalog.header->groups_wanted, 3, memory_order_release);
		say(goes, MAILBOX_WANT_GROUPS, 3);
		poll(NULL, 0, (int)(test_random(&seed) % 80));
		kill_supervisor(agent_pid(stays));
		reconnect(i % 2 ? stays : goes, "");
		reconnect(i % 2 ? goes : stays, "");
		want_through_deaths(goes, 3);
		for (unsigned g = 0; g < 3; g++)
			check_group(goes, g, 4, 2);
		picture_check(stays, &before);
		/* Who ends in the same moment as the whole agent is remembered by nobody: the nodes
		 * keep its bytes for --orphan-keep. So it ends before. */
		uint64_t leased = leased_bytes(NODES);
		runtime_end(goes);
		CHECK(pump(stays, leased_at_most, leased - 3 * 6 * REGION));
	}
	CHECK(leased_settled(NODES, 2 * 6 * REGION));
	want(stays, 4);
	CHECK_EQ(leased_bytes(NODES), catalog_bytes(stays));
	finish(stays);
}

/* Everything that has a fault point in its way; the worker dies at one of them (FARMEM_FAULTS). */
static void scenario_place(void)
{
	const char config[] = "embedded-nodes=4\n";
	char path[sizeof tree_dir + 16];
	static char log[1 << 18];
	tree_begin();
	struct runtime *runtime = attach(2, 1, config);
	snprintf(path, sizeof path, "%s/agent.log", tree_dir);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(file >= 0);
	want_through_deaths(runtime, 2);
	CHECK(pump(runtime, has_nodes, 4));
	pid_t old = worker_of(agent_pid(runtime));
	while (!kill_worker(agent_pid(runtime)))
		poll(NULL, 0, 1);
	CHECK(pump(runtime, worker_is_new, (uint64_t)old));
	struct runtime *goes = attach(2, 1, config);
	want_through_deaths(goes, 1);
	runtime_end(goes);
	want_through_deaths(runtime, 3);
	unsigned victim = catalog_column_node(&runtime->catalog.groups[0].columns[0]);
	kill(node_pid(runtime, victim), SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(pump(runtime, has_nodes, 5));
	want_through_deaths(runtime, 4);
	for (unsigned g = 0; g < 4; g++)
		check_group(runtime, g, 2, 1);
	CHECK(leased_settled(4, catalog_bytes(runtime)));
	finish(runtime);
	ssize_t length = read(file, log, sizeof log - 1);
	close(file);
	CHECK(length > 0);
	log[length] = '\0';
	CHECK(strstr(log, "worker start=3") != NULL); /* it did die: ours was the other one */
}

/* ---- all of it ---- */

TEST(a_killed_agent_is_replaced_by_one_that_finds_nodes_and_groups_again)
{
	static struct picture before;
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 3);
	picture_take(runtime, &before);
	for (unsigned i = 0; i < 3; i++) {
		pid_t nodes[NODES];
		for (unsigned n = 0; n < NODES; n++)
			nodes[n] = node_pid(runtime, n);
		pid_t worker = worker_of(agent_pid(runtime));
		int pidfd = pidfd_of(worker);
		kill_supervisor(agent_pid(runtime));
		CHECK(await_end(pidfd, WAIT_NS));
		CHECK(pump(runtime, has_ended, 0));
		/* A new program may be there before the old one is. */
		struct runtime *other = i == 1 ? runtime_begin(4, 2, "") : NULL;
		if (other != NULL)
			want(other, 1);
		reconnect(runtime, "");
		picture_check(runtime, &before);
		for (unsigned n = 0; n < NODES; n++)
			CHECK_EQ(node_pid(runtime, n), nodes[n]);
		if (other != NULL) {
			check_group(other, 0, 4, 2);
			runtime_end(other);
		}
	}
	/* A node that is not the new agent's child is watched all the same. */
	unsigned victim = catalog_column_node(&runtime->catalog.groups[0].columns[0]);
	kill(node_pid(runtime, victim), SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(pump(runtime, has_nodes, NODES + 1));
	int nodes[NODES];
	unsigned count = 0;
	for (unsigned n = 0; n < NODES; n++)
		if (n != victim)
			nodes[count++] = pidfd_of(node_pid(runtime, n));
	finish(runtime); /* stops them, though it did not start them */
	for (unsigned n = 0; n < count; n++)
		CHECK(await_end(nodes[n], WAIT_NS));
}

TEST(a_lost_table_of_nodes_is_made_again_from_a_catalog)
{
	static struct picture before;
	char path[sizeof tree_dir + 16];
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 2);
	picture_take(runtime, &before);
	snprintf(path, sizeof path, "%s/agent.nodes", tree_dir);
	CHECK_EQ(unlink(path), 0);
	kill_supervisor(agent_pid(runtime));
	reconnect(runtime, "");
	picture_check(runtime, &before);
	want(runtime, 3);
	CHECK_EQ(leased_bytes(NODES), 3 * 6 * REGION);
	finish(runtime);
}

/* ---- catalogs that are not what they should be ---- */

typedef void (*damage)(struct catalog *catalog);

static void damage_code(struct catalog *catalog)
{
	catalog->groups[0].k = 200;
}

static void damage_state(struct catalog *catalog)
{
	atomic_store(&catalog->groups[1].state, 77);
}

static void damage_count(struct catalog *catalog)
{
	atomic_store(&catalog->header->groups_count, 60000);
}

static void damage_nodes(struct catalog *catalog)
{
	catalog->nodes[3].incarnation ^= 1;
}

static void damage_nodes_count(struct catalog *catalog)
{
	atomic_store(&catalog->header->nodes_count, 1u << 31);
}

TEST(a_catalog_that_contradicts_itself_harms_its_own_program_only)
{
	static const damage damages[] = {
		damage_code, damage_state, damage_count, damage_nodes, damage_nodes_count};
	static struct picture before;
	tree_begin();
	struct runtime *good = runtime_begin(4, 2, "");
	CHECK(pump(good, has_nodes, NODES));
	want(good, 2);
	picture_take(good, &before);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(damages); i++) {
		struct runtime *bad = runtime_begin(2, 1, "");
		want(bad, 2);
		damages[i](&bad->catalog);
		pid_t old = worker_of(agent_pid(good));
		good->welcome = false;
		CHECK(kill_worker(agent_pid(good)));
		CHECK(pump(good, worker_is_new, (uint64_t)old));
		CHECK(pump(good, was_welcomed, 0));
		CHECK(pump(bad, has_ended, 0));
		picture_check(good, &before);
		runtime_end(bad);
	}
	want(good, 3);
	finish(good);
}

static bool was_repaired(struct runtime *runtime, uint64_t group)
{
	const struct catalog_group *entry = &runtime->catalog.groups[group];
	unsigned lost = 0;
	for (unsigned p = 0; p < (unsigned)entry->k + entry->m; p++)
		lost += atomic_load_explicit(&entry->columns[p].lost, memory_order_acquire) != 0;
	return lost == 0 && atomic_load(&entry->state) == GROUP_OPEN;
}

/* Places that no node lent: the columns are lost, their group goes on without them. */
TEST(a_capability_that_no_node_gave_is_a_lost_column)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, NODES));
	want(runtime, 1);
	struct catalog_column *columns = runtime->catalog.groups[0].columns;
	catalog_cur(&columns[0])->node = 200;
	catalog_cur(&columns[5])->capability.incarnation ^= 1;
	runtime->welcome = false;
	CHECK(kill_worker(agent_pid(runtime)));
	CHECK(pump(runtime, was_welcomed, 0));
	CHECK(pump(runtime, was_repaired, 0));
	check_group(runtime, 0, 4, 2);
	want(runtime, 2);
	finish(runtime);
}

/* ---- questions ---- */

TEST(the_catalog_of_a_program_is_handed_to_whoever_asks)
{
	struct mailbox_message message = {
		.version = MAILBOX_VERSION, .kind = MAILBOX_CATALOG, .value = getpid()};
	struct catalog seen;
	int fd;
	tree_begin();
	struct runtime *runtime = runtime_begin(2, 1, "");
	want(runtime, 1);
	int asker = tree_connect();
	struct pollfd poller = {.fd = asker, .events = POLLIN};
	CHECK_EQ(mailbox_send(asker, &message, -1), 0);
	CHECK_EQ(poll(&poller, 1, 20000), 1);
	CHECK_EQ(mailbox_receive(asker, &message, &fd), 0);
	CHECK_EQ(message.kind, MAILBOX_DONE);
	CHECK_EQ(message.value, 0);
	CHECK(fd >= 0);
	CHECK_EQ(catalog_attach(&seen, fd), 0);
	CHECK_EQ(seen.header->pid, getpid());
	CHECK_EQ(seen.header->groups_count, 1);
	catalog_close(&seen);
	message.kind = MAILBOX_CATALOG;
	message.value = 1;
	CHECK_EQ(mailbox_send(asker, &message, -1), 0);
	CHECK_EQ(poll(&poller, 1, 20000), 1);
	CHECK_EQ(mailbox_receive(asker, &message, &fd), 0);
	CHECK_EQ(message.value, -ESRCH);
	CHECK_EQ(fd, -1);
	close(asker);
	finish(runtime);
}

/* The scenarios, begun by the first case, have run beside all others. */
TEST(a_worker_killed_anywhere_loses_and_leaks_nothing)
{
	const char *name = getenv("AGENT_SCENARIO");
	unsigned failed = 0;
	if (name != NULL && strcmp(name, "workers") == 0)
		scenario_workers();
	else if (name != NULL && strcmp(name, "agents") == 0)
		scenario_agents();
	else if (name != NULL)
		scenario_place();
	if (name != NULL)
		return;
	scenarios_start();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(scenarios); i++) {
		int status = -1;
		CHECK_EQ(waitpid(scenario_pids[i], &status, 0), scenario_pids[i]);
		if (status != 0)
			printf("     scenario %s: status %d\n", scenarios[i], status);
		failed += status != 0;
	}
	CHECK_EQ(failed, 0);
}
