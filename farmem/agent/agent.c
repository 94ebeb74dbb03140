/*
 * farmem/agent/agent.c: the loop. Caller: apps/agent_main.c.
 *
 *     spawner forked -> agent.sock listening -> "ready" -> loop -> (nobody left) -> end
 *
 * One thread. Everything is an event: a descriptor (epoll), or time (the tick). gRPC's answers come
 * through a descriptor too. Nothing here blocks, except the last moments, which nobody waits for.
 *
 * Invariants
 *   1. The spawner is forked before gRPC starts (at the first HELLO).
 *   2. The agent ends only while it holds the tree's lock and no connection is waiting: whoever
 *      connects later finds nobody and starts another agent, whoever connected before is served.
 *   3. A signal ends the agent without giving leases back: a program that still runs keeps its
 *      memory; its nodes live until it is gone.
 */
#include "farmem/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/agent_run.h"

#define LISTEN_BACKLOG 64

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

static void signals_ready(struct agent_source *source, uint32_t events)
{
	struct signalfd_siginfo info;
	(void)events;
	if (read(source->fd, &info, sizeof info) == (ssize_t)sizeof info)
		log_warn("agent: ends on signal %u, leases stay", info.ssi_signo);
	source->agent->stopping = true;
}

/* ---- start ---- */

static int open_signals(struct agent *agent)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	agent->signals.ready = signals_ready;
	return agent_watch(agent, &agent->signals, fd);
}

/* A socket left by an agent that was killed is replaced, a living agent's is not. */
static int open_listener(struct agent *agent)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/" MAILBOX_SOCKET, agent->dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN) {
		close(fd);
		return -EADDRINUSE;
	}
	unlink(address.sun_path);
	agent->listener.ready = runtime_accept;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		listen(fd, LISTEN_BACKLOG) == 0)
		return agent_watch(agent, &agent->listener, fd);
	int error = -errno;
	close(fd);
	return error;
}

static int agent_open(struct agent *agent, const char *dir, const char *self)
{
	agent->listener.fd = agent->signals.fd = agent->calls.fd = agent->spawner.fd = -1;
	agent->started_ns = clock_now_ns();
	agent->idle_since_ns = agent->started_ns;
	if (snprintf(agent->dir, sizeof agent->dir, "%s", dir) >= (int)sizeof agent->dir ||
		snprintf(agent->self, sizeof agent->self, "%s", self) >= (int)sizeof agent->self)
		return -ENAMETOOLONG;
	int spawner = spawner_open();
	if (spawner < 0)
		return spawner;
	agent->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (agent->epoll < 0)
		return -errno;
	agent->calls.ready = calls_ready;
	agent->spawner.ready = embedded_event;
	int error = agent_watch(agent, &agent->spawner, spawner);
	if (error == 0)
		error = open_signals(agent);
	return error != 0 ? error : open_listener(agent);
}

/* ---- the end ---- */

static bool releases_pending(const struct agent *agent)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].releases_count > 0 && agent->members[i].client != NULL)
			return true;
	return false;
}

/* Nobody left for long enough? */
static bool agent_is_idle(const struct agent *agent, uint64_t now_ns)
{
	if (agent->idle_since_ns == 0)
		return false;
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (now_ns < agent->runtimes[i]->fresh_until_ns)
			return false; /* its HELLO may be on the way */
	uint64_t idle_ns = now_ns - agent->idle_since_ns;
	if (!agent->begun)
		return idle_ns >= AGENT_FIRST_NS;
	if (!agent->embedded && releases_pending(agent))
		return idle_ns >= AGENT_LINGER_NS + AGENT_RELEASE_NS;
	return idle_ns >= AGENT_LINGER_NS;
}

/* The tree's lock, or -1 when somebody is connecting. Invariant 2. */
static int lock_tree(const struct agent *agent)
{
	char path[sizeof agent->dir + 16];
	snprintf(path, sizeof path, "%s/" MAILBOX_LOCK, agent->dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool connection_waits(const struct agent *agent)
{
	struct pollfd poller = {.fd = agent->listener.fd, .events = POLLIN};
	return poll(&poller, 1, 0) > 0;
}

static void remove_tree(const struct agent *agent)
{
	static const char *const files[] = {MAILBOX_SOCKET, "agent.log", MAILBOX_LOCK};
	char path[sizeof agent->dir + 16];
	for (unsigned i = 0; i < FM_ARRAY_COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s", agent->dir, files[i]);
		unlink(path);
	}
	rmdir(agent->dir);
}

/* True when it has ended. */
static bool agent_try_end(struct agent *agent)
{
	/* Somebody may have removed the directory (a cleaner of /tmp): then nobody can find us. */
	bool there = access(agent->dir, F_OK) == 0 || errno != ENOENT;
	int lock = lock_tree(agent);
	if (lock < 0 && there)
		return false;
	if (there && connection_waits(agent)) {
		close(lock);
		return false;
	}
	agent_unwatch(&agent->listener);
	embedded_end(agent);
	remove_tree(agent);
	if (lock >= 0)
		close(lock);
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

/* What events have left to be done. */
static void agent_settle(struct agent *agent, uint64_t now_ns)
{
	if (now_ns >= agent->tick_ns && agent->begun)
		agent_tick(agent, now_ns);
	if (agent->embedded)
		embedded_tick(agent, now_ns);
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime = agent->runtimes[i];
		if (!runtime->attached)
			continue;
		if (runtime->refill) {
			runtime->refill = false;
			groups_fill(runtime);
		}
		runtime_tell(runtime);
	}
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

int agent_run(const struct agent_run_options *options)
{
	static struct agent agent;
	int error = agent_open(&agent, options->dir, options->self);
	if (error != 0)
		return error;
	log_info("agent: serving dir=%s", agent.dir);
	options->ready(options->context);
	agent_loop(&agent);
	log_info("agent: end");
	return 0;
}
