/*
 * farmem/agent/agent_runtime.c: connections on agent.sock: programs' runtimes (HELLO, or held for
 * us by the supervisor), and whoever asks: STATS, CATALOG, DRAIN.
 *
 * Invariants
 *   1. Nothing of a message is trusted: lengths by mailbox_receive, the catalog by
 *      catalog_attach, indexes here. A connection that talks nonsense is closed; others do not
 *      notice.
 *   2. We never wait for a runtime: what its socket does not take now is told at the next tick.
 *   3. The end of a runtime's connection is the end of its memory: all its leases go back. Except
 *      when the same catalog has come by another connection meanwhile: then it is that one's; and
 *      while children forked from it live, which read what is far: then it is kept as it is.
 *   4. A runtime is with the supervisor (KEEP) before it hears WELCOME, and is served the same way
 *      whether it is new, was held through our predecessor's death, or found the whole agent gone
 *      and comes with a catalog full of groups.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/agent/compact.h"
#include "farmem/agent/supervisor.h"

/* After a program's end, until the last forked child's: between two looks, at first and in the end.
 */
#define RUNTIME_LOOK_NS (2 * NS_PER_MS)
#define RUNTIME_LOOK_MAX_NS (1 * NS_PER_S)

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
	/* The supervisor has the connection too, until the leases have been given back. */
	(void)shutdown(runtime->source.fd, SHUT_RDWR);
	agent_unwatch(&runtime->source);
	agent_forget(agent, runtime);
	agent_leave(runtime);
	if (runtime->attached) {
		log_info("agent: gone pid=%lld groups=%u", (long long)runtime->pid,
			runtime->groups_count);
		groups_release(runtime);
		catalog_close(&runtime->catalog);
		runtime->attached = false;
		if (runtime_attached_count(agent) == 0)
			agent->idle_since_ns = clock_now_ns();
	}
	if (runtime->life >= 0)
		close(runtime->life);
	runtime->life = -1;
	runtime->gone = true;
	runtime_put(runtime);
}

/* ---- outlived by its children ---- */

/* The kernel does not seal what is mapped somewhere (farmem/fork_token.c). */
static bool runtime_has_family(const struct agent_runtime *runtime)
{
	return runtime->life >= 0 && fcntl(runtime->life, F_ADD_SEALS, F_SEAL_WRITE) != 0 &&
	       errno == EBUSY;
}

/* Its program is gone: nothing is on its way out any more. */
static void runtime_outlive(struct agent_runtime *runtime, uint64_t now_ns)
{
	struct agent *agent = runtime->source.agent;
	epoll_ctl(agent->epoll, EPOLL_CTL_DEL, runtime->source.fd, NULL);
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++)
		atomic_store_explicit(
			&runtime->catalog.threads[i].storing, 0, memory_order_release);
	compact_outlive(runtime);
	runtime->outlived = true;
	runtime->look_pause_ns = RUNTIME_LOOK_NS;
	runtime->look_ns = now_ns + runtime->look_pause_ns;
}

void runtime_bury_outlived(struct agent *agent, uint64_t now_ns)
{
	for (unsigned i = agent->runtimes_count; i-- > 0;) {
		struct agent_runtime *runtime = agent->runtimes[i];
		if (!runtime->outlived || now_ns < runtime->look_ns)
			continue;
		if (!runtime_has_family(runtime)) {
			runtime_close(runtime);
			continue;
		}
		uint64_t pause_ns = FM_MIN(2 * runtime->look_pause_ns, RUNTIME_LOOK_MAX_NS);
		if (pause_ns == RUNTIME_LOOK_MAX_NS && runtime->look_pause_ns < pause_ns)
			log_info("agent: pid=%lld is gone, children of it go on",
				(long long)runtime->pid);
		runtime->look_pause_ns = pause_ns;
		runtime->look_ns = now_ns + pause_ns;
	}
}

/* ---- HELLO ---- */

static void close_each(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

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

/* Takes fd over. */
static int runtime_attach(struct agent_runtime *runtime, const char *hello, int fd)
{
	static char text[sizeof((struct mailbox_message *)NULL)->text];
	snprintf(text, sizeof text, "%s", hello);
	int error = config_from_text(&runtime->config, text);
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
	if (error == 0)
		error = adopt_catalog(runtime);
	if (error != 0) {
		runtime->groups_count = 0;
		catalog_close(&runtime->catalog);
		return error;
	}
	runtime->pid = runtime->catalog.header->pid;
	runtime->attached = true;
	return 0;
}

/* The first one of the tree decides which nodes there are; gRPC starts here. */
static int agent_begin(struct agent *agent, const char *hello)
{
	struct agent_table *table = agent->table;
	static char text[sizeof table->config];
	if (agent->begun)
		return 0;
	if (!atomic_load_explicit(&table->config_known, memory_order_acquire)) {
		snprintf(table->config, sizeof table->config, "%s", hello);
		atomic_store_explicit(&table->config_known, 1, memory_order_release);
	}
	snprintf(text, sizeof text, "%s", table->config);
	int error = config_from_text(&agent->config, text);
	if (error == 0)
		error = ctl_queue_open(&agent->queue);
	if (error == 0)
		error = agent_watch(agent, &agent->calls, ctl_queue_fd(agent->queue));
	if (error == 0)
		error = nodes_begin(agent);
	agent->begun = error == 0;
	if (error == 0)
		adopt_members(agent);
	return error;
}

/* An earlier connection with the same catalog: its program has given that one up. */
static void twin_close(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	struct stat own, other;
	if (fstat(runtime->catalog.fd, &own) != 0)
		return;
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *twin = agent->runtimes[i];
		if (twin == runtime || !twin->attached || fstat(twin->catalog.fd, &other) != 0 ||
			own.st_ino != other.st_ino || own.st_dev != other.st_dev)
			continue;
		log_info("agent: pid=%lld has come by another connection", (long long)twin->pid);
		twin->groups_count = 0; /* invariant 3 */
		runtime_close(twin);
		return;
	}
}

/* Attached, held by the supervisor, and the nodes are there. */
static void runtime_serve(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	bool pending = true;
	if (strcmp(agent->config.nodes, runtime->config.nodes) != 0)
		log_warn("agent: pid=%lld wants other nodes: it gets those of this tree",
			(long long)runtime->pid);
	atomic_store_explicit(
		&runtime->catalog.header->agent_state, runtime->full ? 2 : 1, memory_order_release);
	catalog_count(&runtime->catalog, agent_starts, 1);
	adopt_show(runtime);
	AGENT_DIE("serve.welcome");
	runtime_send(runtime, MAILBOX_WELCOME, 0, &pending);
	/* What our predecessor was asked for and did not answer: the catalog has groups_wanted. */
	runtime->tell_groups = runtime->asked = runtime->groups_count > 0;
	runtime_tell(runtime);
	runtime->refill = true;
}

static int handle_hello(struct agent_runtime *runtime, const char *text, int fd, int life)
{
	struct agent *agent = runtime->source.agent;
	if (runtime->attached) {
		close_each((int[]){fd, life}, 2);
		return -EPROTO;
	}
	runtime->life = life;
	AGENT_DIE("hello");
	int error = runtime_attach(runtime, text, fd);
	if (error != 0)
		return error;
	agent->idle_since_ns = 0;
	log_info("agent: hello pid=%lld code=%u+%u region_bytes=%llu groups=%u",
		(long long)runtime->pid, runtime->wish.k, runtime->wish.m,
		(unsigned long long)runtime->region_bytes, runtime->groups_count);
	twin_close(runtime);
	error = agent_keep(runtime, text);
	AGENT_DIE("hello.kept");
	if (error == 0)
		error = agent_begin(agent, text);
	if (error == 0)
		runtime_serve(runtime);
	return error;
}

/* ---- questions ---- */

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

static int answer(struct agent_runtime *runtime, int64_t value, int fd)
{
	const struct mailbox_message message = {
		.version = MAILBOX_VERSION, .kind = MAILBOX_DONE, .value = value};
	runtime->fresh_until_ns = 0;
	return mailbox_send(runtime->source.fd, &message, fd);
}

static int handle_catalog(struct agent_runtime *asker, int64_t pid)
{
	const struct agent *agent = asker->source.agent;
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached && agent->runtimes[i]->pid == pid)
			return answer(asker, 0, agent->runtimes[i]->catalog.fd);
	return answer(asker, -ESRCH, -1);
}

static int handle_drain(struct agent_runtime *asker, const struct mailbox_message *message)
{
	struct agent *agent = asker->source.agent;
	int error =
		agent->begun ? drain_request(agent, message->text, message->value == 1) : -ENOENT;
	return answer(asker, error, -1);
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

/* 0, or -errno: the connection is to be closed. Takes the descriptors over. */
static int handle_message(
	struct agent_runtime *runtime, struct mailbox_message *message, const int *fds)
{
	if (message->kind == MAILBOX_HELLO)
		return handle_hello(runtime, message->text, fds[0], fds[1]);
	close_each(fds, MAILBOX_FDS_MAX);
	switch (message->kind) {
	case MAILBOX_STATS:
		return handle_stats(runtime);
	case MAILBOX_CATALOG:
		return handle_catalog(runtime, message->value);
	case MAILBOX_DRAIN:
		return handle_drain(runtime, message);
	default:
		if (!runtime->attached)
			return -EPROTO;
	}
	switch (message->kind) {
	case MAILBOX_WANT_GROUPS:
		runtime->asked = true;
		runtime->refill = true;
		return 0;
	case MAILBOX_NODE_SUSPECT:
		return handle_suspect(runtime, message->value);
	case MAILBOX_MERGES:
		compact_look(runtime);
		return 0;
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
	int fds[MAILBOX_FDS_MAX];
	if ((events & EPOLLOUT) != 0)
		text_send(runtime);
	if ((events & ~(uint32_t)EPOLLOUT) == 0)
		return;
	int error = mailbox_receive_fds(source->fd, &message, fds);
	if (error == -EAGAIN)
		return;
	if (error == 0)
		error = handle_message(runtime, &message, fds);
	if (error == 0)
		return;
	if (error == -ECONNRESET && runtime->attached && runtime_has_family(runtime)) {
		runtime_outlive(runtime, clock_now_ns());
		return;
	}
	if (error != -ECONNRESET)
		log_warn("agent: connection closed pid=%lld error=%d", (long long)runtime->pid,
			error);
	runtime_close(runtime);
}

/* Takes fd over. NULL: no room for it. */
static struct agent_runtime *runtime_make(struct agent *agent, int fd)
{
	struct agent_runtime *runtime =
		agent->runtimes_count < AGENT_RUNTIMES_MAX ? calloc(1, sizeof *runtime) : NULL;
	if (runtime == NULL) {
		log_warn("agent: too many connections: one is refused");
		close(fd);
		return NULL;
	}
	runtime->source.ready = runtime_ready;
	runtime->place = runtime->life = -1;
	if (agent_watch(agent, &runtime->source, fd) != 0) {
		close(fd);
		free(runtime);
		return NULL;
	}
	agent->runtimes[agent->runtimes_count++] = runtime;
	return runtime;
}

void runtime_accept(struct agent_source *listener, uint32_t events)
{
	(void)events;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct agent_runtime *runtime = runtime_make(listener->agent, fd);
	if (runtime != NULL)
		runtime->fresh_until_ns = clock_now_ns() + AGENT_LINGER_NS;
}

/* ---- what the supervisor held ---- */

static void runtime_restore(struct agent *agent, int place)
{
	const struct supervisor_runtime *held = &agent->supervisor->runtimes[place];
	agent->places[place] = true;
	struct agent_runtime *runtime = runtime_make(agent, held->connection);
	if (runtime == NULL) {
		close_each((int[]){held->catalog, held->life}, 2);
		return;
	}
	runtime->place = place;
	runtime->life = held->life;
	int error = runtime_attach(runtime, held->text, held->catalog);
	if (error != 0) {
		log_error("agent: a catalog cannot be adopted error=%d", error);
		runtime_close(runtime);
		return;
	}
	agent->idle_since_ns = 0;
	log_info("agent: adopted pid=%lld groups=%u", (long long)runtime->pid,
		runtime->groups_count);
	AGENT_DIE("restore");
}

void runtime_restore_all(struct agent *agent)
{
	bool known = atomic_load_explicit(&agent->table->config_known, memory_order_acquire) != 0;
	if (agent->supervisor->worker_starts == 1)
		return; /* nothing is held yet */
	for (int place = 0; place < AGENT_RUNTIMES_MAX; place++)
		if (agent->supervisor->runtimes[place].held)
			runtime_restore(agent, place);
	/* Without a runtime too: nodes run, and are to be stopped in due time. */
	const char *text = agent->runtimes_count > 0
				   ? agent->supervisor->runtimes[agent->runtimes[0]->place].text
				   : NULL;
	if (!known && text == NULL)
		return;
	int error = agent_begin(agent, text);
	if (error != 0) {
		log_error("agent: cannot begin again error=%d", error);
		_exit(1); /* the supervisor tries again, and again */
	}
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		runtime_serve(agent->runtimes[i]);
}
