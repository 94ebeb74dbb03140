/*
 * farmem/agent/agent.c: the worker: its loop, timers, start and end. Caller: agent_supervisor.c,
 * in a child of its own (supervisor.h).
 *
 *     forked -> what is held is adopted -> loop -> (nobody left) -> END, said to the supervisor
 *
 * One thread. Everything is an event: a descriptor (epoll), or time (the tick). gRPC's answers come
 * through a descriptor too. Nothing here blocks.
 *
 * Invariants
 *   1. The worker may be killed between any two instructions: what its successor needs is in the
 *      catalogs, in the tree's table, or with the supervisor, and is there before anybody is told.
 *   2. The agent ends only while it holds the tree's lock and no connection is waiting: whoever
 *      connects later finds nobody and starts another agent, whoever connected before is served.
 *   3. The supervisor remembers a runtime until its leases have been given back (or for
 *      AGENT_LEFT_NS, when a node does not answer): our death in between repeats the giving back.
 */
#include "farmem/agent/agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/supervisor.h"

uint64_t agent_realtime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- descriptors ---- */

int agent_watch(struct agent *agent, struct agent_source *source, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
	if (epoll_ctl(agent->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		return -errno;
	source->fd = fd;
	source->agent = agent;
	return 0;
}

void agent_watch_writing(struct agent_source *source, bool on)
{
	struct epoll_event event = {
		.events = EPOLLIN | (on ? (uint32_t)EPOLLOUT : 0), .data.ptr = source};
	epoll_ctl(source->agent->epoll, EPOLL_CTL_MOD, source->fd, &event);
}

void agent_unwatch(struct agent_source *source)
{
	if (source->fd < 0)
		return;
	epoll_ctl(source->agent->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	close(source->fd);
	source->fd = -1;
}

static void calls_ready(struct agent_source *source, uint32_t events)
{
	(void)events;
	ctl_queue_dispatch(source->agent->queue);
}

static _Atomic uint32_t *deaths_left; /* shared with the supervisor and every worker */

void agent_die(void)
{
	if (atomic_exchange(deaths_left, 0) != 0)
		kill(getpid(), SIGKILL);
}

/* ---- the supervisor ---- */

int agent_order(struct agent *agent, const struct supervisor_message *message)
{
	return supervisor_send(agent->supervisor->socket, message, NULL, 0, 0);
}

static int place_take(struct agent *agent)
{
	for (int i = 0; i < AGENT_RUNTIMES_MAX; i++)
		if (!agent->places[i])
			return i;
	return -1;
}

int agent_keep(struct agent_runtime *runtime, const char *text)
{
	static struct supervisor_message message;
	struct agent *agent = runtime->source.agent;
	int fds[SUPERVISOR_FDS_MAX] = {runtime->source.fd, runtime->catalog.fd, runtime->life};
	unsigned fds_count = runtime->life >= 0 ? 3 : 2;
	int place = place_take(agent);
	if (place < 0)
		return -EAGAIN;
	message.kind = SUPERVISOR_KEEP;
	message.index = (uint32_t)place;
	message.length = (uint32_t)strlen(text) + 1;
	memcpy(message.text, text, message.length);
	int error = supervisor_send(agent->supervisor->socket, &message, fds, fds_count, 0);
	if (error != 0)
		return error;
	agent->places[place] = true;
	runtime->place = place;
	return 0;
}

void agent_leave(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	if (runtime->place < 0)
		return;
	agent->left_ns[runtime->place] = clock_now_ns();
	agent->left_count++;
	runtime->place = -1;
}

static bool releases_pending(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].releases_count > 0 && agent->members[i].client != NULL)
			return true;
	return false;
}

/* Invariant 3. */
static void agent_drop_left(struct agent *agent, uint64_t now_ns)
{
	bool pending = releases_pending(agent);
	for (unsigned i = 0; i < AGENT_RUNTIMES_MAX; i++) {
		struct supervisor_message message = {.kind = SUPERVISOR_DROP, .index = i};
		if (agent->left_ns[i] == 0 ||
			(pending && now_ns < agent->left_ns[i] + AGENT_LEFT_NS))
			continue;
		agent->left_ns[i] = 0;
		agent->left_count--;
		agent->places[i] = false;
		(void)agent_order(agent, &message);
	}
}

static void orders_ready(struct agent_source *source, uint32_t events)
{
	static struct supervisor_message message;
	int fds[SUPERVISOR_FDS_MAX];
	(void)events;
	int error = supervisor_receive(source->fd, &message, fds);
	if (error == -EAGAIN)
		return;
	if (error != 0) {
		/* Runtimes see the end of their connections and start another agent. */
		log_warn("agent: the supervisor is gone");
		_exit(0);
	}
	embedded_told(source->agent, &message, fds[0]);
}

/* ---- start ---- */

static int agent_open(struct agent *agent, struct supervisor *supervisor)
{
	agent->supervisor = supervisor;
	deaths_left = supervisor->deaths_left;
	agent->listener.fd = agent->calls.fd = agent->orders.fd = -1;
	agent->started_ns = clock_now_ns();
	agent->idle_since_ns = agent->started_ns;
	agent->table = supervisor->table;
	agent->nodes = supervisor->table->nodes;
	agent->nodes_count = atomic_load_explicit(&agent->table->nodes_count, memory_order_acquire);
	memcpy(agent->dir, supervisor->dir, sizeof agent->dir);
	memcpy(agent->self, supervisor->self, sizeof agent->self);
	agent->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (agent->epoll < 0)
		return -errno;
	agent->calls.ready = calls_ready;
	agent->orders.ready = orders_ready;
	agent->listener.ready = runtime_accept;
	int error = agent_watch(agent, &agent->orders, supervisor->socket);
	return error != 0 ? error : agent_watch(agent, &agent->listener, supervisor->listener);
}

/* ---- the end ---- */

/* After an agent that was killed: do our nodes hold what somebody has not come back for yet? */
static bool strangers_hold(const struct agent *agent)
{
	bool adopted = agent->supervisor->adopted;
	for (unsigned i = 0; i < agent->members_count; i++) {
		const struct agent_member *member = &agent->members[i];
		adopted = adopted || member->adopted;
		if (adopted && member->process_running && member->load.leases > 0)
			return true;
	}
	return false;
}

/* Nobody left for long enough? */
static bool agent_is_idle(const struct agent *agent, uint64_t now_ns)
{
	/* It may have become idle after now_ns was read, in this very turn. */
	if (agent->idle_since_ns == 0 || now_ns < agent->idle_since_ns)
		return false;
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (now_ns < agent->runtimes[i]->fresh_until_ns)
			return false; /* its HELLO may be on the way */
	uint64_t idle_ns = now_ns - agent->idle_since_ns;
	if (!agent->begun)
		return idle_ns >= AGENT_FIRST_NS;
	if (agent->embedded ? strangers_hold(agent) : releases_pending(agent))
		return idle_ns >=
		       (agent->embedded ? AGENT_STRANGERS_NS : AGENT_LINGER_NS + AGENT_RELEASE_NS);
	return idle_ns >= AGENT_LINGER_NS;
}

static bool connection_waits(const struct agent *agent)
{
	struct pollfd poller = {.fd = agent->listener.fd, .events = POLLIN};
	return poll(&poller, 1, 0) > 0;
}

/* True when it has ended: the supervisor stops the nodes and removes the tree. */
static bool agent_try_end(struct agent *agent)
{
	struct supervisor_message end = {.kind = SUPERVISOR_END};
	/* Somebody may have removed the directory (a cleaner of /tmp): then nobody can find us. */
	bool there = access(agent->dir, F_OK) == 0 || errno != ENOENT;
	int lock = supervisor_lock_tree(agent->dir); /* invariant 2 */
	if (lock < 0 && there)
		return false;
	if (there && connection_waits(agent)) {
		close(lock);
		return false;
	}
	AGENT_DIE("end");
	(void)!supervisor_send(agent->supervisor->socket, &end, &lock, lock >= 0, 0);
	return true;
}

/* ---- the loop ---- */

static void agent_tick(struct agent *agent, uint64_t now_ns)
{
	agent->tick_ns = now_ns + AGENT_TICK_NS;
	nodes_tick(agent, now_ns);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		agent->runtimes[i]->refill = true;
}

/* Nodes of an earlier agent are being found: what is known of them is not to be asked for yet. */
static bool agent_is_adopting(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].adopting)
			return true;
	return false;
}

/* What events have left to be done. */
static void agent_settle(struct agent *agent, uint64_t now_ns)
{
	if (now_ns >= agent->tick_ns && agent->begun)
		agent_tick(agent, now_ns);
	if (agent->embedded)
		embedded_tick(agent, now_ns);
	if (agent->left_count > 0)
		agent_drop_left(agent, now_ns);
	runtime_bury_outlived(agent, now_ns);
	const bool adopting = agent_is_adopting(agent);
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime = agent->runtimes[i];
		if (!runtime->attached)
			continue;
		if (runtime->refill && !adopting) {
			runtime->refill = false;
			groups_fill(runtime);
		}
		runtime_tell(runtime);
	}
	table_save(agent);
}

/* Milliseconds until time itself is an event. */
static int agent_patience(const struct agent *agent, uint64_t now_ns)
{
	uint64_t until_ns = now_ns + AGENT_TICK_NS;
	if (agent->begun)
		until_ns = FM_MIN(until_ns, agent->tick_ns);
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].restart_ns != 0)
			until_ns = FM_MIN(until_ns, agent->members[i].restart_ns);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->outlived)
			until_ns = FM_MIN(until_ns, agent->runtimes[i]->look_ns);
	if (agent->idle_since_ns != 0 && agent->idle_since_ns + AGENT_LINGER_NS > now_ns)
		until_ns = FM_MIN(until_ns, agent->idle_since_ns + AGENT_LINGER_NS);
	return until_ns > now_ns ? (int)((until_ns - now_ns) / NS_PER_MS) + 1 : 0;
}

static void agent_loop(struct agent *agent)
{
	while (!agent->stopping) {
		/* One at a time: an event may free the source of another. */
		struct epoll_event event;
		uint64_t now_ns = clock_now_ns();
		agent_settle(agent, now_ns);
		if (agent_is_idle(agent, now_ns) && agent_try_end(agent))
			return;
		if (epoll_wait(agent->epoll, &event, 1, agent_patience(agent, now_ns)) == 1) {
			struct agent_source *source = event.data.ptr;
			source->ready(source, event.events);
		}
	}
}

int worker_run(struct supervisor *supervisor)
{
	static struct agent agent;
	int error = agent_open(&agent, supervisor);
	if (error != 0) {
		log_error("agent: the worker cannot start error=%d", error);
		return 1;
	}
	log_info("agent: worker start=%u", supervisor->worker_starts);
	runtime_restore_all(&agent);
	agent_loop(&agent);
	return 0;
}
