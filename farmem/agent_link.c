/*
 * farmem/agent_link.c: the runtime's end of the agent socket (mailbox.h), on the runtime's main
 * thread.
 *
 * Other threads report through bits and an eventfd (agent_link_suspect, agent_link_wanted): they
 * never block. When the agent goes away the runtime goes on without new groups, and looks for it
 * again now and then.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "farmem/mailbox.h"
#include "farmem/runtime.h"

#define AGENT_LINK_CONNECT_NS (20 * NS_PER_S)

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

int agent_link_open(struct runtime *rt)
{
	struct mailbox_message m = {
		.version = MAILBOX_VERSION, .kind = MAILBOX_HELLO, .value = getpid()};
	int rc = agent_link_config_text(rt, m.text, sizeof(m.text));
	if (rc != 0)
		return rc;
	int s = mailbox_connect(rt->config.dir, rt->tree, clock_now_ns() + AGENT_LINK_CONNECT_NS);
	if (s < 0)
		return s;
	rc = mailbox_send(s, &m, rt->core.catalog.fd);
	if (rc != 0) {
		close(s);
		return rc;
	}
	rt->agent_socket = s;
	return 0;
}

static void agent_link_lost(struct runtime *rt)
{
	log_warn("the agent is gone: far memory goes on, but gets no new groups and nodes are not "
		 "watched");
	close(rt->agent_socket);
	rt->agent_socket = -1;
}

static void agent_link_message(struct runtime *rt, const struct mailbox_message *m)
{
	switch (m->kind) {
	case MAILBOX_NOTICE:
		log_print(m->value == 0 ? LOG_ERROR : LOG_WARN, "%.1000s", m->text);
		break;
	case MAILBOX_GROUPS:
		atomic_store(&rt->wanted_told, 0);
		for (unsigned i = 0; i < rt->stripe_count; i++)
			evict_call(&rt->stripes[i]);
		break;
	case MAILBOX_WORK:
		for (unsigned i = 0; i < rt->stripe_count; i++)
			evict_call(&rt->stripes[i]);
		break;
	default:
		break; /* WELCOME, NODES: the catalog has it all */
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
	for (unsigned i = 0; i < CATALOG_NODES_MAX / 64; i++) {
		uint64_t bits = atomic_exchange(&rt->suspects[i], 0);
		for (; bits != 0; bits &= bits - 1)
			agent_link_say(rt, MAILBOX_NODE_SUSPECT,
				(int64_t)(i * 64) + __builtin_ctzll(bits));
	}
	if (atomic_load(&rt->wanted_told))
		agent_link_say(rt, MAILBOX_WANT_GROUPS, rt->core.catalog.header->groups_wanted);
}

void agent_link_turn(struct runtime *rt, int timeout_ms)
{
	struct pollfd p[2] = {
		{.fd = rt->event, .events = POLLIN}, {.fd = rt->agent_socket, .events = POLLIN}};
	if (poll(p, 2, timeout_ms) <= 0)
		return;
	if (p[0].revents)
		agent_link_report(rt);
	if (rt->agent_socket >= 0 && p[1].revents)
		agent_link_receive(rt);
}
