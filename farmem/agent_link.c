/*
 * farmem/agent_link.c: the runtime's end of the agent socket (mailbox.h), on the runtime's main
 * thread.
 *
 * Other threads report through bits and an eventfd (agent_link_suspect, agent_link_wanted,
 * agent_link_merges): they never block. A worker of the agent that dies is not noticed here: its
 * supervisor holds our connection. When all of the agent is gone the runtime goes on without new
 * groups and connects again, which starts another agent; that one takes over what our catalog
 * names.
 *
 * Invariants
 *   1. Nothing waits for the agent but this thread, and that for a bounded time.
 *   2. Tries go on for as long as the program runs, at least AGENT_LINK_PAUSE_MAX_NS apart in the
 *      end. One line when that takes longer than people should not know of, one when it is over.
 *   3. What other threads had to say meanwhile is in the catalog (states of nodes, groups_wanted)
 *      or still in our bits: a new connection says it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "farmem/mailbox.h"
#include "farmem/merge.h"
#include "farmem/runtime.h"

#define AGENT_LINK_CONNECT_NS (20 * NS_PER_S)
#define AGENT_LINK_RECONNECT_NS (5 * NS_PER_S) /* for one try */
#define AGENT_LINK_PAUSE_NS (10 * NS_PER_MS)   /* after the first try, which is at once */
#define AGENT_LINK_PAUSE_MAX_NS (2 * NS_PER_S)
#define AGENT_LINK_DOUBLINGS_MAX 8u
#define AGENT_LINK_SILENT_NS (5 * NS_PER_S)

static void agent_link_ring(struct runtime *rt)
{
	uint64_t one = 1;
	(void)!write(rt->event, &one, sizeof(one));
}

void agent_link_suspect(struct core *core, uint32_t node)
{
	struct runtime *rt = core->reporter;
	atomic_fetch_or(&rt->suspects[node / 64], 1ull << (node % 64));
	agent_link_ring(rt);
}

void agent_link_wanted(struct core *core)
{
	struct runtime *rt = core->reporter;
	if (!atomic_exchange(&rt->wanted_told, 1))
		agent_link_ring(rt);
}

void agent_link_merges(struct core *core)
{
	struct runtime *rt = core->reporter;
	if (!atomic_exchange(&rt->merges_told, 1))
		agent_link_ring(rt);
}

static int agent_link_config_text(const struct runtime *rt, char *text, size_t size)
{
	size_t used = 0;
	for (unsigned i = 0; i < config_specs_count; i++) {
		char value[2304];
		if (options_format(&config_specs[i], &rt->config, value, sizeof(value)) < 0)
			return -ENOSPC;
		int n = snprintf(text + used, size - used, "%s=%s\n", config_specs[i].name, value);
		if (n < 0 || (size_t)n >= size - used)
			return -ENOSPC;
		used += (size_t)n;
	}
	return 0;
}

static void agent_link_say(struct runtime *rt, uint32_t kind, int64_t value)
{
	struct mailbox_message m = {.version = MAILBOX_VERSION, .kind = kind, .value = value};
	if (rt->agent_socket < 0)
		return;
	int rc = mailbox_send(rt->agent_socket, &m, -1);
	if (rc != 0 && rc != -EAGAIN)
		log_debug("agent: cannot send: %d", rc);
}

/* The socket, after HELLO; or -errno. */
static int agent_link_connect(struct runtime *rt, uint64_t wait_ns)
{
	struct mailbox_message m = {
		.version = MAILBOX_VERSION, .kind = MAILBOX_HELLO, .value = getpid()};
	int rc = agent_link_config_text(rt, m.text, sizeof(m.text));
	if (rc != 0)
		return rc;
	int s = mailbox_connect(rt->config.dir, rt->tree, clock_now_ns() + wait_ns);
	if (s < 0)
		return s;
	const int fds[MAILBOX_FDS_MAX] = {rt->core.catalog.fd, rt->life};
	rc = mailbox_send_fds(s, &m, fds, rt->life >= 0 ? 2 : 1);
	if (rc == 0)
		return s;
	close(s);
	return rc;
}

int agent_link_open(struct runtime *rt)
{
	int s = agent_link_connect(rt, AGENT_LINK_CONNECT_NS);
	if (s < 0)
		return s;
	rt->agent_socket = s;
	return 0;
}

static void agent_link_lost(struct runtime *rt)
{
	uint64_t now = clock_now_ns();
	close(rt->agent_socket);
	rt->agent_socket = -1;
	/* Nobody compacts: repack is on its own until the next agent says otherwise. */
	atomic_store(&rt->core.catalog.header->compacting, 0);
	/* One that refuses us at once is a try like any other. */
	if (rt->agent_lost_ns == 0) {
		rt->agent_lost_ns = now;
		rt->agent_retry_ns = now;
		rt->agent_tries = 0;
	}
	log_debug("agent: connection lost");
}

static void agent_link_missed(struct runtime *rt, uint64_t now)
{
	if (rt->agent_missed || now - rt->agent_lost_ns < AGENT_LINK_SILENT_NS)
		return;
	rt->agent_missed = true;
	log_warn("the agent is gone and cannot be started again: far memory goes on, but gets no "
		 "new groups, and lost nodes are not replaced");
}

/* It serves us: what is told to it from now on counts. */
static void agent_link_found(struct runtime *rt)
{
	if (rt->agent_lost_ns != 0 && rt->agent_missed)
		log_warn("the agent is back");
	rt->agent_lost_ns = 0;
	rt->agent_missed = false;
}

/* Invariant 2. Does nothing before its time. */
static void agent_link_retry(struct runtime *rt)
{
	uint64_t now = clock_now_ns();
	if (rt->agent_lost_ns == 0 || now < rt->agent_retry_ns)
		return;
	int s = agent_link_connect(rt, AGENT_LINK_RECONNECT_NS);
	uint64_t pause = AGENT_LINK_PAUSE_NS << FM_MIN(rt->agent_tries, AGENT_LINK_DOUBLINGS_MAX);
	rt->agent_tries++;
	now = clock_now_ns();
	rt->agent_retry_ns = now + FM_MIN(pause, (uint64_t)AGENT_LINK_PAUSE_MAX_NS);
	if (s < 0) {
		log_debug("agent: cannot connect: %d", s);
		agent_link_missed(rt, now);
		return;
	}
	rt->agent_socket = s;
	agent_link_ring(rt); /* invariant 3 */
}

static void agent_link_message(struct runtime *rt, const struct mailbox_message *m)
{
	switch (m->kind) {
	case MAILBOX_WELCOME:
		rt->agent_met = true;
		agent_link_found(rt);
		break;
	case MAILBOX_NOTICE:
		log_print(m->value == 0 ? LOG_ERROR : LOG_WARN, "%.1000s", m->text);
		break;
	case MAILBOX_GROUPS:
		atomic_store(&rt->wanted_told, 0);
		for (unsigned i = 0; i < rt->stripe_count; i++)
			evict_call(&rt->stripes[i]);
		break;
	case MAILBOX_WORK:
		merge_call(&rt->core);
		for (unsigned i = 0; i < rt->stripe_count; i++)
			evict_call(&rt->stripes[i]);
		break;
	default:
		break; /* NODES: the catalog has it all */
	}
}

static void agent_link_receive(struct runtime *rt)
{
	struct mailbox_message m;
	for (;;) {
		int fd = -1;
		int rc = mailbox_receive(rt->agent_socket, &m, &fd);
		if (fd >= 0)
			close(fd);
		if (rc == -EAGAIN)
			return;
		if (rc != 0) {
			agent_link_lost(rt);
			return;
		}
		agent_link_message(rt, &m);
	}
}

static void agent_link_report(struct runtime *rt)
{
	uint64_t rung;
	(void)!read(rt->event, &rung, sizeof(rung));
	if (rt->agent_socket < 0)
		return;
	for (unsigned i = 0; i < CATALOG_NODES_MAX / 64; i++) {
		uint64_t bits = atomic_exchange(&rt->suspects[i], 0);
		for (; bits != 0; bits &= bits - 1)
			agent_link_say(rt, MAILBOX_NODE_SUSPECT,
				(int64_t)(i * 64) + __builtin_ctzll(bits));
	}
	if (atomic_load(&rt->wanted_told))
		agent_link_say(rt, MAILBOX_WANT_GROUPS, rt->core.catalog.header->groups_wanted);
	/* One that finds no room in its queue is not missed: what is there makes the agent look. */
	if (atomic_exchange(&rt->merges_told, 0))
		agent_link_say(rt, MAILBOX_MERGES, 0);
}

/* Milliseconds: the next try may be due earlier. */
static int agent_link_patience(const struct runtime *rt, int timeout_ms)
{
	uint64_t now = clock_now_ns();
	if (rt->agent_socket >= 0 || rt->agent_lost_ns == 0)
		return timeout_ms;
	if (rt->agent_retry_ns <= now)
		return 0;
	uint64_t left_ms = (rt->agent_retry_ns - now) / NS_PER_MS + 1;
	return left_ms < (uint64_t)timeout_ms ? (int)left_ms : timeout_ms;
}

void agent_link_turn(struct runtime *rt, int timeout_ms)
{
	struct pollfd p[2] = {
		{.fd = rt->event, .events = POLLIN}, {.fd = rt->agent_socket, .events = POLLIN}};
	if (poll(p, 2, agent_link_patience(rt, timeout_ms)) > 0) {
		if (p[0].revents)
			agent_link_report(rt);
		if (rt->agent_socket >= 0 && p[1].revents)
			agent_link_receive(rt);
	}
	if (rt->agent_socket < 0)
		agent_link_retry(rt);
}
