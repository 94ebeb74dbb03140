/*
 * lb/channel_server.c: the server half of include/farmem/rpc.h: a urpc server whose load lies where
 * probes are answered from. Callers: programs that link libfarmem-rpc, apps/echo.c.
 *
 * Who answers probes: an eBPF program where asked for or (auto) possible, and behind it always the
 * server's own socket, for those the program does not see (unix and shared memory, interfaces that
 * came later). A filter of sources works in the kernel only: with one, and without eBPF, nobody
 * answers.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "farmem/rpc.h"
#include "lb/channel.h"

#define SERVER_METHODS_MAX 1024u
#define SERVER_CLOSE_NS_MAX 5000000000ull /* finishing what is there takes at most so long */
#define SERVER_CLOSE_STEP_NS 1000000

struct fm_rpc_server {
	struct urpc_server *urpc;
	struct probe_server *probe;
	enum probe_mode mode;
	bool is_filtered; /* the socket cannot tell who may ask: it answers nobody */
	const struct load_slot *slot;
	struct fm_rpc_method *methods; /* in the order of their ids */
	struct urpc_method *table;
	unsigned methods_count;
	void *context;
	_Atomic uint64_t probes_answered; /* by the socket */
};

static int method_compare(const void *a, const void *b)
{
	uint32_t left = ((const struct fm_rpc_method *)a)->id;
	uint32_t right = ((const struct fm_rpc_method *)b)->id;

	return (left > right) - (left < right);
}

/* urpc's one handler: finds the program's own. */
static int server_handle(struct urpc_call *call)
{
	const struct fm_rpc_server *server = call->context;
	const struct fm_rpc_method wanted = {.id = call->method}, *method;
	struct fm_rpc_request request = {
		.req = call->request,
		.req_bytes = call->request_bytes,
		.resp = call->reply,
		.resp_capacity = call->reply_capacity,
		.arrival_ns = call->arrival_ns,
		.context = server->context,
	};
	uint64_t now_ns = clock_now_ns();
	int rc;

	method = bsearch(
		&wanted, server->methods, server->methods_count, sizeof(wanted), method_compare);
	if (method == NULL)
		return -ENOSYS;
	request.remaining_ns = call->deadline_ns > now_ns ? call->deadline_ns - now_ns : 0;
	rc = method->handle(&request);
	FM_ASSERT(request.resp_bytes <= call->reply_capacity);
	call->reply_bytes = request.resp_bytes;
	return rc;
}

static size_t server_foreign(void *context, const void *bytes, size_t length, void *answer)
{
	struct fm_rpc_server *server = context;
	size_t answer_bytes;

	if (server->is_filtered)
		return 0;
	answer_bytes = probe_answer(server->slot, clock_now_ns(), bytes, length, answer);
	if (answer_bytes > 0)
		/* relaxed: a counter */
		atomic_fetch_add_explicit(&server->probes_answered, 1, memory_order_relaxed);
	return answer_bytes;
}

/* --- opening ------------------------------------------------------------------------------------
 */

static int open_methods(struct fm_rpc_server *server, const struct fm_rpc_server_options *options)
{
	unsigned count = options->methods_count;

	if (count == 0 || count > SERVER_METHODS_MAX || options->methods == NULL) {
		log_error("rpc: a server has 1 to %u methods, not %u", SERVER_METHODS_MAX, count);
		return -EINVAL;
	}
	server->methods = calloc(count, sizeof(*server->methods));
	server->table = calloc(count, sizeof(*server->table));
	if (server->methods == NULL || server->table == NULL)
		return -ENOMEM;
	memcpy(server->methods, options->methods, count * sizeof(*server->methods));
	qsort(server->methods, count, sizeof(*server->methods), method_compare);
	for (unsigned i = 0; i < count; i++) {
		if (i > 0 && server->methods[i].id == server->methods[i - 1].id) {
			log_error("rpc: two methods have the id %u", server->methods[i].id);
			return -EINVAL;
		}
		server->table[i] = (struct urpc_method){
			.id = server->methods[i].id,
			.flags = server->methods[i].flags & FM_RPC_ONCE ? URPC_ONCE : 0,
			.handle = server_handle,
		};
	}
	server->methods_count = count;
	return 0;
}

static int open_mode(struct fm_rpc_server *server, const char *name)
{
	server->mode = PROBE_AUTO;
	if (name != NULL && !probe_mode_parse(name, &server->mode)) {
		log_error("rpc: probe mode '%s': auto, tc, xdp, xdp-generic, user or none", name);
		return -EINVAL;
	}
	if (server->mode == PROBE_USER && server->is_filtered) {
		log_error("rpc: probe mode user answers everybody: who may ask can be checked by "
			  "eBPF only");
		return -EINVAL;
	}
	return 0;
}

static int open_urpc(struct fm_rpc_server *server, const struct fm_rpc_server_options *options)
{
	struct urpc_server_options urpc = {
		.listen = options->listen,
		.methods = server->table,
		.methods_count = server->methods_count,
		.context = server,
		.workers = options->workers,
		.queue_max = options->queue_max,
		.quantum_ns = options->quantum_ns,
		.foreign = server->mode != PROBE_NONE ? server_foreign : NULL,
		.foreign_context = server,
		.apart = options->handlers_block != 0,
	};
	int rc;

	if (options->listen == NULL) {
		log_error("rpc: a server wants an address to listen at");
		return -EINVAL;
	}
	rc = urpc_server_open(&urpc, &server->urpc);
	if (rc < 0) {
		log_error("rpc: cannot listen at '%s': %s (write HOST:PORT, :PORT, unix:/PATH or "
			  "shm:/PATH)",
			options->listen, strerror(-rc));
		return rc;
	}
	server->slot = urpc_server_slot(server->urpc);
	return 0;
}

/* The kernel's half, where there is one. */
static int open_probe(struct fm_rpc_server *server, const char *allow)
{
	struct probe_server_options options = {
		.mode = server->mode == PROBE_AUTO ? PROBE_TC : server->mode,
		.port = urpc_server_port(server->urpc),
		.allow = allow,
	};
	int rc;

	if (server->mode == PROBE_NONE || server->mode == PROBE_USER)
		return 0; /* the socket alone, or nobody */
	rc = options.port != 0 ? probe_server_open(&options, &server->probe) : -EOPNOTSUPP;
	if (rc == 0) {
		server->mode = probe_server_mode(server->probe);
		urpc_server_use_slot(server->urpc, probe_server_slot(server->probe));
		server->slot = probe_server_slot(server->probe);
		return 0;
	}
	if (server->mode != PROBE_AUTO || rc == -EINVAL) {
		log_error("rpc: probes cannot be answered by %s: %s", probe_mode_name(options.mode),
			strerror(-rc));
		return rc;
	}
	server->mode = PROBE_USER;
	if (server->is_filtered)
		log_warn("rpc: probes are not answered: who may ask ('%s') can be checked by eBPF "
			 "only: %s",
			allow, strerror(-rc));
	else
		log_info("rpc: probes are answered by user space: %s", strerror(-rc));
	return 0;
}

static void server_free(struct fm_rpc_server *server)
{
	urpc_server_close(server->urpc);
	probe_server_close(server->probe);
	free(server->table);
	free(server->methods);
	free(server);
}

int fm_rpc_server_open(struct fm_rpc_server **out, const struct fm_rpc_server_options *options)
{
	struct fm_rpc_server *server = calloc(1, sizeof(*server));
	int rc;

	*out = NULL;
	if (server == NULL)
		return -ENOMEM;
	server->context = options->context;
	server->is_filtered = options->probe_allow != NULL && options->probe_allow[0] != '\0';
	rc = open_methods(server, options);
	if (rc == 0)
		rc = open_mode(server, options->probe);
	if (rc == 0)
		rc = open_urpc(server, options);
	if (rc == 0)
		rc = open_probe(server, options->probe_allow);
	if (rc == 0)
		rc = urpc_server_start(server->urpc);
	if (rc < 0) {
		server_free(server);
		return rc;
	}
	*out = server;
	return 0;
}

uint16_t fm_rpc_server_port(const struct fm_rpc_server *server)
{
	return urpc_server_port(server->urpc);
}

void fm_rpc_server_close(struct fm_rpc_server *server)
{
	uint64_t end_ns = clock_now_ns() + SERVER_CLOSE_NS_MAX;
	struct load load;

	if (server == NULL)
		return;
	urpc_server_drain(server->urpc);
	while (clock_now_ns() < end_ns && load_read(server->slot, clock_now_ns(), &load) &&
		load.in_flight > 0) {
		struct timespec step = {.tv_nsec = SERVER_CLOSE_STEP_NS};

		nanosleep(&step, NULL);
	}
	server_free(server);
}

int fm_rpc_server_stats(struct fm_rpc_server *server, char *text, size_t size)
{
	struct probe_server_stats probe = {0};
	struct urpc_server_stats s;
	struct load load;
	int length;

	urpc_server_stats(server->urpc, &s);
	if (server->probe != NULL)
		probe_server_stats(server->probe, &probe);
	load_read(server->slot, clock_now_ns(), &load);
#define U(x) ((unsigned long long)(x))
	length = snprintf(text, size,
		"{\"requests\":%llu,\"replies\":%llu,\"overloads\":%llu,\"expired\":%llu,"
		"\"cancelled\":%llu,\"duplicates\":%llu,\"preemptions\":%llu,\"malformed\":%llu,"
		"\"unknown_methods\":%llu,\"fragments_dropped\":%llu,\"probe_mode\":\"%s\","
		"\"probes_in_kernel\":%llu,\"probes_in_user_space\":%llu,\"probes_refused\":%llu,"
		"\"in_flight\":%u,\"delay_ns\":%u,\"epoch\":%u}",
		U(s.requests), U(s.replies), U(s.overloads), U(s.expired), U(s.cancelled),
		U(s.duplicates), U(s.preemptions), U(s.malformed), U(s.unknown_methods),
		U(s.fragments_dropped), probe_mode_name(server->mode), U(probe.answered),
		U(atomic_load_explicit(&server->probes_answered, memory_order_relaxed)),
		U(probe.refused_source), load.in_flight, load.delay_ns, load.epoch);
#undef U
	return length < 0 || (size_t)length >= size ? -ENOSPC : length;
}

void fm_rpc_poll_point(void)
{
	urpc_poll_point();
}
