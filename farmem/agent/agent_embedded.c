/*
 * farmem/agent/agent_embedded.c: memory nodes of our own on this machine: started at the first
 * runtime, started again when they die. The supervisor stops them when the last runtime has gone.
 *
 *     start --STARTED, pipe--> ready line --> ctl.sock is asked for Stats (agent_nodes.c) --> UP
 *       ^                                                                                   |
 *       +--- after a pause that doubles while nodes die young --- ENDED: the node is DOWN --+
 *
 * Invariants
 *   1. A node that we started is dead when its process has ended, and not before: silence alone,
 *      of a stopped or starved process, loses no byte (agent_nodes.c asks process_running).
 *   2. A restarted node is another node: new incarnation, new index.
 *   3. Member I's directory is node-I, always. A process that serves it and that our supervisor did
 *      not start was left by an agent that was killed: it is adopted, for it holds somebody's
 * bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/agent/supervisor.h"

#define RESTART_FIRST_NS (100 * NS_PER_MS)
#define RESTART_MAX_NS (10 * NS_PER_S)
#define RESTART_DOUBLINGS_MAX 8u
#define YOUNG_NS (10 * NS_PER_S) /* dying younger than this counts towards the pause */
#define JOIN_NS (10 * NS_PER_S)  /* for the first start, on a busy machine */
#define REJOIN_NS (2 * NS_PER_S) /* for a restart */
#define LENT_PERMILLE 900        /* of the machine, by all nodes together */

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

static void text_add(struct supervisor_message *message, const char *format, ...) FM_PRINTF(2, 3);

static void text_add(struct supervisor_message *message, const char *format, ...)
{
	va_list arguments;
	size_t left = sizeof message->text - message->length;
	va_start(arguments, format);
	int length = vsnprintf(message->text + message->length, left, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length < left)
		message->length += (uint32_t)length + 1;
}

static void start_flags(const struct agent_member *member, struct supervisor_message *message)
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
	text_add(message, "--log-level");
	text_add(message, "%s", agent->config.log_level >= LOG_INFO ? "info" : "warn");
	if (agent->config.transport == TRANSPORT_TCP) {
		text_add(message, "--data-listen");
		text_add(message, "127.0.0.1:0");
	}
}

static bool dir_is_served(const struct agent_member *member)
{
	return spawner_dir_is_taken(member->agent->dir, strrchr(member->dir, '/') + 1);
}

static void member_start(struct agent_member *member)
{
	struct agent *agent = member->agent;
	static struct supervisor_message message;
	char path[4200];
	memset(&message, 0, sizeof message);
	message.index = member->index;
	member->restart_ns = 0;
	member->started_ns = clock_now_ns();
	member->tried = false;
	if (dir_is_served(member)) {
		member->adopting = true;
		message.kind = SUPERVISOR_ADOPT;
		(void)agent_order(agent, &message);
		return;
	}
	if (member->node >= 0)
		node_down(member, "its process has ended");
	message.kind = SUPERVISOR_START;
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
	AGENT_DIE("node.start");
	(void)agent_order(
		agent, &message); /* a supervisor that is gone shows as its socket's end */
}

/* Its control plane can be asked, now or soon. */
static void member_ask(struct agent_member *member)
{
	int error = ctl_client_open(member->address, &member->client);
	if (error != 0)
		log_error("agent: open member=%s error=%d", member->name, error);
	else
		node_check(member);
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
	if (length > 0) /* else it ended: ENDED follows */
		member_ask(member);
}

/* One that is to be adopted lives as long as it holds its directory's lock: member_start looks. */
static void member_not_started(struct agent_member *member, int error)
{
	uint64_t pause_ns = RESTART_FIRST_NS << FM_MIN(member->deaths, RESTART_DOUBLINGS_MAX);
	log_error("agent: %s member=%s error=%d", member->adopting ? "adopt" : "start",
		member->name, error);
	member->tried = !member->adopting;
	member->deaths++;
	member->restart_ns = clock_now_ns() +
			     (member->adopting ? FM_MIN(pause_ns, RESTART_MAX_NS) : RESTART_MAX_NS);
	member->adopting = false;
}

static void member_started(struct agent_member *member, int pid, int ready_fd)
{
	if (pid < 0) {
		member_not_started(member, pid);
		return;
	}
	member->process_running = true;
	member->agent->processes_running++;
	log_info("agent: %s member=%s pid=%d", member->adopting ? "adopted" : "started",
		member->name, pid);
	member->adopted = member->adopting;
	member->adopting = false;
	if (ready_fd < 0) {
		member_ask(member);
		return;
	}
	fcntl(ready_fd, F_SETFL, O_NONBLOCK);
	member->ready_pipe.ready = ready_line;
	if (agent_watch(member->agent, &member->ready_pipe, ready_fd) != 0)
		close(ready_fd);
}

static void end_reason(int status, char *text, size_t size)
{
	if (status < 0)
		snprintf(text, size, "its process has ended"); /* it was not our child */
	else if (WIFSIGNALED(status))
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
	uint64_t pause_ns = member->deaths == 0 ? 0
						: RESTART_FIRST_NS << FM_MIN(member->deaths - 1,
							  RESTART_DOUBLINGS_MAX);
	member->restart_ns = now_ns + FM_MIN(pause_ns, RESTART_MAX_NS);
	/* Groups wait for a quick restart, not for one that keeps failing. */
	member->tried = member->deaths > 1;
	member->join_until_ns = now_ns + REJOIN_NS;
	log_warn("agent: ended member=%s reason=\"%s\" restart_in_ms=%llu", member->name, reason,
		(unsigned long long)((member->restart_ns - now_ns) / NS_PER_MS));
}

void embedded_told(struct agent *agent, const struct supervisor_message *message, int fd)
{
	struct agent_member *member =
		message->index < agent->members_count ? &agent->members[message->index] : NULL;
	if (member != NULL && message->kind == SUPERVISOR_STARTED)
		member_started(member, message->value, fd);
	else if (fd >= 0)
		close(fd);
	if (member != NULL && message->kind == SUPERVISOR_ENDED)
		member_ended(member, message->value);
}

/* As many as the configuration says, and those that an earlier agent left alive beyond. */
static unsigned embedded_count(const struct agent *agent)
{
	const struct fm_config *config = &agent->config;
	uint64_t wish = config->embedded_count != 0 ? config->embedded_count
						    : config->code.k + config->code.m + 1;
	unsigned count = (unsigned)FM_MIN(wish, (uint64_t)AGENT_MEMBERS_MAX);
	for (unsigned i = count; i < AGENT_MEMBERS_MAX; i++) {
		char name[24];
		snprintf(name, sizeof name, "node-%u", i);
		if (agent->supervisor->nodes[i].pid != 0 || spawner_dir_is_taken(agent->dir, name))
			count = i + 1;
	}
	return count;
}

static int member_begin(struct agent_member *member)
{
	struct agent *agent = member->agent;
	const struct supervisor_node *node = &agent->supervisor->nodes[member->index];
	char dir[sizeof member->dir];
	int length = snprintf(dir, sizeof dir, "%s/node-%u", agent->dir, member->index);
	if (length >= (int)sizeof dir)
		return -ENAMETOOLONG;
	if (mkdir(dir, 0700) == 0)
		(void)chmod(dir, geteuid() == 0 ? 0711 : 0700); /* see mailbox_tree_dir */
	else if (errno != EEXIST)
		return -errno;
	memcpy(member->dir, dir, sizeof member->dir);
	snprintf(member->name, sizeof member->name, "embedded-%u", member->index);
	snprintf(member->address, sizeof member->address, "unix:%s/ctl.sock", dir);
	member->join_until_ns = agent->started_ns + JOIN_NS;
	if (node->pid == 0) {
		member_start(member);
		return 0;
	}
	member->process_running = true;
	member->adopted = node->pidfd >= 0;
	member->started_ns = clock_now_ns();
	agent->processes_running++;
	member_ask(member);
	return 0;
}

int embedded_begin(struct agent *agent)
{
	int error = 0;
	agent->members_count = embedded_count(agent);
	for (unsigned i = 0; i < agent->members_count && error == 0; i++)
		error = member_begin(&agent->members[i]);
	return error;
}

void embedded_tick(struct agent *agent, uint64_t now_ns)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].restart_ns != 0 && now_ns >= agent->members[i].restart_ns)
			member_start(&agent->members[i]);
}
