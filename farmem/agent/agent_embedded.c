/*
 * farmem/agent/agent_embedded.c: memory nodes of our own on this machine: started at the first
 * runtime, started again when they die, stopped when the last runtime has gone.
 *
 *     start --STARTED, pipe--> ready line --> ctl.sock is asked for Stats (agent_nodes.c) --> UP
 *       ^                                                                                   |
 *       +--- after a pause that doubles while nodes die young --- ENDED: the node is DOWN --+
 *
 * Invariants
 *   1. A node that we started is dead when its process has ended, and not before: silence alone,
 *      of a stopped or starved process, loses no byte (agent_nodes.c asks process_running).
 *   2. A restarted node is another node: new incarnation, new index.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/agent.h"

#define RESTART_FIRST_NS (100 * NS_PER_MS)
#define RESTART_MAX_NS (10 * NS_PER_S)
#define YOUNG_NS (10 * NS_PER_S) /* dying younger than this counts towards the pause */
#define JOIN_NS (10 * NS_PER_S)  /* for the first start, on a busy machine */
#define REJOIN_NS (2 * NS_PER_S) /* for a restart */
#define STOP_NS (3 * NS_PER_S)   /* from SIGTERM to SIGKILL, and again to giving up */
#define DIRS_MAX 1000
#define LENT_PERMILLE 900 /* of the machine, by all nodes together */

/* farmem-memnode: beside our program, or where an installation has it. */
static int memnode_find(const struct agent *agent, char *path, size_t size)
{
	static const char *const places[] = {"", "/../bin", "/../../bin"};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(places); i++) {
		int length = snprintf(path, size, "%s%s/farmem-memnode", agent->self, places[i]);
		if (length < (int)size && access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

static void text_add(struct spawner_message *message, const char *format, ...) FM_PRINTF(2, 3);

static void text_add(struct spawner_message *message, const char *format, ...)
{
	va_list arguments;
	size_t left = sizeof message->text - message->length;
	va_start(arguments, format);
	int length = vsnprintf(message->text + message->length, left, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length < left)
		message->length += (uint32_t)length + 1;
}

static void start_flags(const struct agent_member *member, struct spawner_message *message)
{
	const struct agent *agent = member->agent;
	text_add(message, "--dir");
	text_add(message, "%s", member->dir);
	text_add(message, "--name");
	text_add(message, "%s", member->name);
	/* Each counts as a host of its own: that is the deal of the embedded default. */
	text_add(message, "--host-id");
	text_add(message, "%s", member->name);
	text_add(message, "--memory");
	if (agent->config.node_memory_bytes != 0)
		text_add(message, "%llu", (unsigned long long)agent->config.node_memory_bytes);
	else
		text_add(message, "%u.%u%%", LENT_PERMILLE / agent->members_count / 10,
			LENT_PERMILLE / agent->members_count % 10);
	/* Nobody but us uses it, and it ends with us: an orphan's bytes are never in the way. */
	text_add(message, "--orphan-keep");
	text_add(message, "8760h");
	text_add(message, "--log-level");
	text_add(message, "%s", agent->config.log_level >= LOG_INFO ? "info" : "warn");
	if (agent->config.transport == TRANSPORT_TCP) {
		text_add(message, "--data-listen");
		text_add(message, "127.0.0.1:0");
	}
}

static void member_start(struct agent_member *member)
{
	struct agent *agent = member->agent;
	static struct spawner_message message;
	char path[4200];
	memset(&message, 0, sizeof message);
	message.kind = SPAWNER_START;
	message.index = member->index;
	member->restart_ns = 0;
	if (memnode_find(agent, path, sizeof path) != 0) {
		member->tried = true;
		runtime_notice(agent, NULL, LOG_ERROR,
			"farmem-memnode is not beside farmem-agent (%s): the installation is "
			"incomplete",
			agent->self);
		return;
	}
	text_add(&message, "%s", path);
	start_flags(member, &message);
	text_add(&message, "%s/agent.log", agent->dir);
	member->started_ns = clock_now_ns();
	member->tried = false;
	int error = spawner_send(agent->spawner.fd, &message, -1);
	if (error != 0)
		log_error("agent: start member=%s error=%d", member->name, error);
}

/* One line on the ready pipe: the node's control plane can be asked. */
static void ready_line(struct agent_source *source, uint32_t events)
{
	struct agent_member *member = FM_CONTAINER_OF(source, struct agent_member, ready_pipe);
	char line[1024];
	(void)events;
	ssize_t length = read(source->fd, line, sizeof line);
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	agent_unwatch(source);
	if (length <= 0)
		return; /* it ended: ENDED follows */
	int error = ctl_client_open(member->address, &member->client);
	if (error != 0)
		log_error("agent: open member=%s error=%d", member->name, error);
	else
		node_check(member);
}

static void member_started(struct agent_member *member, int pid, int ready_fd)
{
	if (pid < 0) {
		log_error("agent: start member=%s error=%d", member->name, pid);
		member->tried = true;
		member->restart_ns = clock_now_ns() + RESTART_MAX_NS;
		return;
	}
	member->process_running = true;
	member->agent->processes_running++;
	log_info("agent: started member=%s pid=%d", member->name, pid);
	fcntl(ready_fd, F_SETFL, O_NONBLOCK);
	member->ready_pipe.ready = ready_line;
	if (agent_watch(member->agent, &member->ready_pipe, ready_fd) != 0)
		close(ready_fd);
}

static void end_reason(int status, char *text, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(text, size, "its process was killed by signal %d", WTERMSIG(status));
	else
		snprintf(text, size, "its process ended with status %d", WEXITSTATUS(status));
}

static void member_ended(struct agent_member *member, int status)
{
	struct agent *agent = member->agent;
	uint64_t now_ns = clock_now_ns();
	char reason[64];
	end_reason(status, reason, sizeof reason);
	member->process_running = false;
	agent->processes_running--;
	agent_unwatch(&member->ready_pipe);
	ctl_client_close(member->client);
	member->client = NULL;
	if (agent->stopping)
		return;
	node_down(member, reason);
	member->deaths = now_ns - member->started_ns < YOUNG_NS ? member->deaths + 1 : 0;
	uint64_t pause_ns =
		member->deaths == 0 ? 0 : RESTART_FIRST_NS << FM_MIN(member->deaths - 1, 8u);
	member->restart_ns = now_ns + FM_MIN(pause_ns, RESTART_MAX_NS);
	/* Groups wait for a quick restart, not for one that keeps failing. */
	member->tried = member->deaths > 1;
	member->join_until_ns = now_ns + REJOIN_NS;
	log_warn("agent: ended member=%s reason=\"%s\" restart_in_ms=%llu", member->name, reason,
		(unsigned long long)((member->restart_ns - now_ns) / NS_PER_MS));
}

void embedded_event(struct agent_source *source, uint32_t events)
{
	struct agent *agent = source->agent;
	static struct spawner_message message;
	int fd;
	(void)events;
	int error = spawner_receive(source->fd, &message, &fd);
	if (error == -EAGAIN)
		return;
	if (error != 0) {
		log_error("agent: the spawner is gone: dead nodes will not be started again");
		agent_unwatch(source);
		return;
	}
	if (message.index < agent->members_count) {
		struct agent_member *member = &agent->members[message.index];
		if (message.kind == SPAWNER_STARTED) {
			member_started(member, message.value, fd);
			fd = -1;
		} else if (message.kind == SPAWNER_ENDED) {
			member_ended(member, message.value);
		}
	}
	if (fd >= 0)
		close(fd);
}

/* Does a living node serve this directory? It holds the lock there. */
static bool dir_is_taken(const char *tree_dir, const char *name)
{
	char lock[MAILBOX_TREE_DIR_MAX + 300];
	snprintf(lock, sizeof lock, "%s/%s/lock", tree_dir, name);
	int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool taken = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;
	if (fd >= 0)
		close(fd);
	return taken;
}

/* A directory nobody serves: after a crash of an earlier agent its nodes may live on for their
 * clients' sake. */
static int member_take_dir(struct agent_member *member, unsigned *number)
{
	for (; *number < DIRS_MAX; ++*number) {
		char name[24];
		snprintf(name, sizeof name, "node-%u", *number);
		snprintf(member->dir, sizeof member->dir, "%s/%s", member->agent->dir, name);
		if (mkdir(member->dir, 0700) != 0 && errno != EEXIST)
			return -errno;
		if (dir_is_taken(member->agent->dir, name))
			continue;
		++*number;
		return 0;
	}
	return -EBUSY;
}

int embedded_begin(struct agent *agent)
{
	const struct fm_config *config = &agent->config;
	char dir[sizeof agent->members[0].dir];
	uint64_t count = config->embedded_count != 0 ? config->embedded_count
						     : config->code.k + config->code.m + 1;
	unsigned number = 0;
	agent->members_count = (unsigned)FM_MIN(count, AGENT_MEMBERS_MAX);
	for (unsigned i = 0; i < agent->members_count; i++) {
		struct agent_member *member = &agent->members[i];
		int error = member_take_dir(member, &number);
		if (error != 0)
			return error;
		memcpy(dir, member->dir, sizeof dir);
		snprintf(member->name, sizeof member->name, "embedded-%u", i);
		snprintf(member->address, sizeof member->address, "unix:%s/ctl.sock", dir);
		member->join_until_ns = agent->started_ns + JOIN_NS;
		member_start(member);
	}
	return 0;
}

void embedded_tick(struct agent *agent, uint64_t now_ns)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].restart_ns != 0 && now_ns >= agent->members[i].restart_ns)
			member_start(&agent->members[i]);
}

static void signal_all(struct agent *agent, int number)
{
	for (unsigned i = 0; i < agent->members_count; i++) {
		struct spawner_message message = {
			.kind = SPAWNER_SIGNAL, .index = i, .value = number};
		if (agent->members[i].process_running)
			(void)!spawner_send(agent->spawner.fd, &message, -1);
	}
}

static void await_ends(struct agent *agent, uint64_t until_ns)
{
	while (agent->processes_running > 0 && agent->spawner.fd >= 0) {
		struct pollfd poller = {.fd = agent->spawner.fd, .events = POLLIN};
		uint64_t now_ns = clock_now_ns();
		if (now_ns >= until_ns)
			return;
		if (poll(&poller, 1, (int)((until_ns - now_ns) / NS_PER_MS) + 1) > 0)
			embedded_event(&agent->spawner, 0);
	}
}

/* Directories of our nodes, and of an earlier agent's that have ended since; living ones keep
 * theirs. */
static void remove_dirs(const struct agent *agent)
{
	static const char *const files[] = {"ctl.sock", "data.sock", "lock"};
	DIR *tree = opendir(agent->dir);
	const struct dirent *entry;
	while (tree != NULL && (entry = readdir(tree)) != NULL) {
		char path[MAILBOX_TREE_DIR_MAX + 300];
		if (strncmp(entry->d_name, "node-", 5) != 0 ||
			dir_is_taken(agent->dir, entry->d_name))
			continue;
		for (unsigned f = 0; f < FM_ARRAY_COUNT(files); f++) {
			snprintf(
				path, sizeof path, "%s/%s/%s", agent->dir, entry->d_name, files[f]);
			unlink(path);
		}
		snprintf(path, sizeof path, "%s/%s", agent->dir, entry->d_name);
		rmdir(path);
	}
	if (tree != NULL)
		closedir(tree);
}

void embedded_end(struct agent *agent)
{
	agent->stopping = true; /* nothing is started again */
	signal_all(agent, SIGTERM);
	await_ends(agent, clock_now_ns() + STOP_NS);
	signal_all(agent, SIGKILL);
	await_ends(agent, clock_now_ns() + STOP_NS);
	remove_dirs(agent);
}
