/*
 * farmem/agent/agent_runtime.c: connections on agent.sock: programs' runtimes (HELLO), and
 * whoever asks for STATS.
 *
 * Invariants
 *   1. Nothing of a message is trusted: lengths by mailbox_receive, the catalog by
 *      catalog_attach, indexes here. A connection that talks nonsense is closed; others do not
 *      notice.
 *   2. We never wait for a runtime: what its socket does not take now is told at the next tick.
 *   3. The end of a runtime's connection is the end of its memory: all its leases go back.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent.h"

unsigned runtime_attached_count(const struct agent *agent)
{
	unsigned count = 0;
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		count += agent->runtimes[i]->attached;
	return count;
}

/* ---- telling ---- */

static void runtime_send(struct agent_runtime *runtime, uint32_t kind, int64_t value, bool *pending)
{
	struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = kind, .value = value};
	/* On -EAGAIN it stays pending; a broken connection shows as its end. */
	if (mailbox_send(runtime->source.fd, &message, -1) == 0)
		*pending = false;
}

void runtime_tell(struct agent_runtime *runtime)
{
	if (runtime->tell_nodes)
		runtime_send(runtime, MAILBOX_NODES, 0, &runtime->tell_nodes);
	if (runtime->tell_groups)
		runtime_send(runtime, MAILBOX_GROUPS, runtime->full ? -ENOMEM : 0,
			&runtime->tell_groups);
}

void runtime_notice(struct agent *agent, struct agent_runtime *runtime, enum log_level level,
	const char *format, ...)
{
	static struct mailbox_message message;
	va_list arguments;
	memset(&message, 0, MAILBOX_HEAD_BYTES);
	message.version = MAILBOX_VERSION;
	message.kind = MAILBOX_NOTICE;
	message.value = level;
	va_start(arguments, format);
	vsnprintf(message.text, sizeof message.text, format, arguments);
	va_end(arguments);
	log_print(level, "%s", message.text);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached &&
			(runtime == NULL || agent->runtimes[i] == runtime))
			(void)!mailbox_send(agent->runtimes[i]->source.fd, &message, -1);
}

/* ---- the end ---- */

static void agent_forget(struct agent *agent, const struct agent_runtime *runtime)
{
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		if (agent->runtimes[i] != runtime)
			continue;
		agent->runtimes[i] = agent->runtimes[--agent->runtimes_count];
		return;
	}
}

void runtime_put(struct agent_runtime *runtime)
{
	if (!runtime->gone || runtime->attempts_running > 0)
		return;
	free(runtime->groups);
	free(runtime->text);
	free(runtime);
}

void runtime_close(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	agent_unwatch(&runtime->source);
	agent_forget(agent, runtime);
	if (runtime->attached) {
		log_info("agent: gone pid=%lld groups=%u", (long long)runtime->pid,
			runtime->groups_count);
		groups_release(runtime);
		catalog_close(&runtime->catalog);
		runtime->attached = false;
		if (runtime_attached_count(agent) == 0)
			agent->idle_since_ns = clock_now_ns();
	}
	runtime->gone = true;
	runtime_put(runtime);
}

/* ---- HELLO ---- */

/* "name=value\n" lines. 0 or -EINVAL, said in the log. */
static int config_from_text(struct fm_config *config, char *text)
{
	struct option_error error;
	int rc = options_set_defaults(config_specs, config_specs_count, config, &error);
	for (char *line = text; rc == 0 && *line != '\0';) {
		char *end = strchr(line, '\n');
		char *equals = strchr(line, '=');
		if (end == NULL || equals == NULL || equals > end) {
			snprintf(error.text, sizeof error.text, "a line without = or end");
			rc = -EINVAL;
			break;
		}
		*end = *equals = '\0';
		/* An empty value is the unset one of a text; other types have no such form. */
		if (equals[1] != '\0')
			rc = options_set(
				config_specs, config_specs_count, config, line, equals + 1, &error);
		line = end + 1;
	}
	if (rc != 0)
		log_error("agent: hello error=\"%s\"", error.text);
	return rc;
}

/* What the catalog promises and the agent relies on, beyond catalog_attach's own checks. */
static int runtime_check_catalog(struct agent_runtime *runtime)
{
	const struct catalog_header *header = runtime->catalog.header;
	runtime->wish = (struct option_code){header->code_k, header->code_m};
	runtime->region_bytes = header->region_bytes;
	if (runtime->wish.k < 1 || runtime->wish.k > EC_K_MAX || runtime->wish.m > EC_M_MAX ||
		runtime->region_bytes == 0 || runtime->region_bytes % FM_PAGE_SIZE != 0 ||
		runtime->region_bytes > CONFIG_REGION_BYTES_MAX)
		return -EPROTO;
	return 0;
}

static int runtime_attach(struct agent_runtime *runtime, struct mailbox_message *message, int fd)
{
	int error = config_from_text(&runtime->config, message->text);
	if (error == 0 && fd < 0)
		error = -EPROTO;
	if (error != 0) {
		if (fd >= 0)
			close(fd);
		return error;
	}
	error = catalog_attach(&runtime->catalog, fd);
	if (error != 0)
		return error;
	error = runtime_check_catalog(runtime);
	if (error == 0 && getrandom(runtime->client, sizeof runtime->client, 0) !=
				  (ssize_t)sizeof runtime->client)
		error = -EIO;
	if (error != 0) {
		catalog_close(&runtime->catalog);
		return error;
	}
	runtime->pid = runtime->catalog.header->pid;
	runtime->attached = true;
	return 0;
}

/* The first one decides which nodes there are; gRPC starts here. */
static int agent_begin(struct agent *agent, const struct agent_runtime *runtime)
{
	if (agent->begun) {
		if (strcmp(agent->config.nodes, runtime->config.nodes) != 0)
			log_warn("agent: pid=%lld wants other nodes: it gets those of this tree",
				(long long)runtime->pid);
		return 0;
	}
	agent->config = runtime->config;
	int error = ctl_queue_open(&agent->queue);
	if (error == 0)
		error = agent_watch(agent, &agent->calls, ctl_queue_fd(agent->queue));
	if (error == 0)
		error = nodes_begin(agent);
	agent->begun = error == 0;
	return error;
}

static int handle_hello(struct agent_runtime *runtime, struct mailbox_message *message, int fd)
{
	struct agent *agent = runtime->source.agent;
	bool pending = true;
	if (runtime->attached) {
		if (fd >= 0)
			close(fd);
		return -EPROTO;
	}
	int error = runtime_attach(runtime, message, fd);
	if (error != 0)
		return error;
	agent->idle_since_ns = 0;
	log_info("agent: hello pid=%lld code=%u+%u region_bytes=%llu", (long long)runtime->pid,
		runtime->wish.k, runtime->wish.m, (unsigned long long)runtime->region_bytes);
	error = agent_begin(agent, runtime);
	if (error != 0)
		return error;
	atomic_store_explicit(&runtime->catalog.header->agent_state, 1, memory_order_release);
	nodes_show(agent, runtime);
	runtime_send(runtime, MAILBOX_WELCOME, 0, &pending);
	runtime_tell(runtime);
	runtime->refill = true;
	return 0;
}

/* ---- STATS ---- */

static void text_send(struct agent_runtime *runtime)
{
	while (runtime->text != NULL) {
		size_t left = runtime->text_bytes - runtime->text_sent;
		size_t part = FM_MIN(left, (size_t)MAILBOX_TEXT_MAX);
		/* The packet of no bytes that ends it is sent by the same call. */
		if (send(runtime->source.fd, runtime->text + runtime->text_sent, part,
			    MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
			agent_watch_writing(&runtime->source, errno == EAGAIN);
			return;
		}
		runtime->text_sent += part;
		if (part > 0)
			continue;
		free(runtime->text);
		runtime->text = NULL;
		agent_watch_writing(&runtime->source, false);
	}
}

static int handle_stats(struct agent_runtime *runtime)
{
	if (runtime->text != NULL)
		return -EPROTO; /* one question at a time */
	runtime->fresh_until_ns = 0;
	runtime->text = stats_text(runtime->source.agent);
	if (runtime->text == NULL)
		return -ENOMEM;
	runtime->text_bytes = strlen(runtime->text);
	runtime->text_sent = 0;
	text_send(runtime);
	return 0;
}

/* ---- messages ---- */

static int handle_suspect(struct agent_runtime *runtime, int64_t index)
{
	struct agent *agent = runtime->source.agent;
	if (index < 0 || index >= (int64_t)agent->nodes_count)
		return -EPROTO;
	struct agent_member *member = &agent->members[agent->nodes[index].member];
	if (member->node == index) {
		log_info("agent: pid=%lld suspects node=%s", (long long)runtime->pid, member->name);
		node_check(member);
	}
	return 0;
}

/* 0, or -errno: the connection is to be closed. Takes fd over. */
static int handle_message(struct agent_runtime *runtime, struct mailbox_message *message, int fd)
{
	if (message->kind == MAILBOX_HELLO)
		return handle_hello(runtime, message, fd);
	if (fd >= 0)
		close(fd);
	if (message->kind == MAILBOX_STATS)
		return handle_stats(runtime);
	if (!runtime->attached)
		return -EPROTO;
	switch (message->kind) {
	case MAILBOX_WANT_GROUPS:
		runtime->asked = true;
		runtime->refill = true;
		return 0;
	case MAILBOX_NODE_SUSPECT:
		return handle_suspect(runtime, message->value);
	case MAILBOX_BYE:
		return -ECONNRESET;
	default:
		return -EPROTO;
	}
}

static void runtime_ready(struct agent_source *source, uint32_t events)
{
	static struct mailbox_message message;
	struct agent_runtime *runtime = FM_CONTAINER_OF(source, struct agent_runtime, source);
	int fd;
	if ((events & EPOLLOUT) != 0)
		text_send(runtime);
	if ((events & ~(uint32_t)EPOLLOUT) == 0)
		return;
	int error = mailbox_receive(source->fd, &message, &fd);
	if (error == -EAGAIN)
		return;
	if (error == 0)
		error = handle_message(runtime, &message, fd);
	if (error == 0)
		return;
	if (error != -ECONNRESET)
		log_warn("agent: connection closed pid=%lld error=%d", (long long)runtime->pid,
			error);
	runtime_close(runtime);
}

void runtime_accept(struct agent_source *listener, uint32_t events)
{
	struct agent *agent = listener->agent;
	(void)events;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct agent_runtime *runtime =
		agent->runtimes_count < AGENT_RUNTIMES_MAX ? calloc(1, sizeof *runtime) : NULL;
	if (runtime == NULL) {
		log_warn("agent: too many connections: one is refused");
		close(fd);
		return;
	}
	runtime->source.ready = runtime_ready;
	runtime->fresh_until_ns = clock_now_ns() + AGENT_LINGER_NS;
	if (agent_watch(agent, &runtime->source, fd) != 0) {
		close(fd);
		free(runtime);
		return;
	}
	agent->runtimes[agent->runtimes_count++] = runtime;
}
