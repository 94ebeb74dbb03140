/*
 * lb/probe_server.c: the server half of probing: picks who answers, and owns the slot.
 *
 * Called by servers (memnode, apps/echo.c). Opened and closed by one thread; answers and statistics
 * by any.
 *
 * Who answers, best first; PROBE_AUTO goes down this list until one works:
 *
 *     tc (in the kernel) -> user (a thread, when it has a port) -> none (the socket's owner)
 *
 * Invariants:
 * 1. There is a slot whatever the mode, and it lies at one address until close.
 * 2. Every user-space answer passes probe_server_answer: one filter, one set of counters.
 */
#include "lb/probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "lb/probe_kernel.h"
#include "lb/probe_user.h"

#define WHY_BYTES 256

struct probe_server {
	struct probe_server_options options;
	enum probe_mode mode;
	struct probe_place place;
	struct probe_filter filter;
	struct load_slot *slot;
	struct load_slot *own_slot; /* NULL: the slot is the kernel's */
	struct probe_kernel *kernel;
	unsigned attached; /* interfaces */
	struct probe_user *user;
	_Atomic uint64_t answered, refused_source, malformed, stale; /* by user space; relaxed */
	char why[WHY_BYTES];                                         /* not a better mode */
};

static const char *const mode_names[] = {
	[PROBE_AUTO] = "auto",
	[PROBE_TC] = "tc",
	[PROBE_XDP] = "xdp",
	[PROBE_XDP_GENERIC] = "xdp-generic",
	[PROBE_USER] = "user",
	[PROBE_NONE] = "none",
};

const char *probe_mode_name(enum probe_mode mode)
{
	return mode_names[mode];
}

bool probe_mode_parse(const char *name, enum probe_mode *mode)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(mode_names); i++) {
		if (strcmp(name, mode_names[i]) == 0) {
			*mode = (enum probe_mode)i;
			return true;
		}
	}
	return false;
}

FM_PRINTF(2, 3) static void server_because(struct probe_server *server, const char *format, ...)
{
	size_t used = strlen(server->why);
	va_list arguments;

	va_start(arguments, format);
	if (used > 0 && used + 2 < sizeof(server->why)) {
		memcpy(server->why + used, "; ", 3);
		used += 2;
	}
	vsnprintf(server->why + used, sizeof(server->why) - used, format, arguments);
	va_end(arguments);
}

/* tc by a link where the kernel has that; XDP as asked for. */
static int server_attach_one(struct probe_server *server, enum probe_mode mode,
	const struct probe_interface *interface, enum probe_hook *hook)
{
	int error;

	if (mode == PROBE_TC) {
		*hook = PROBE_HOOK_TCX;
		error = probe_kernel_attach(server->kernel, interface, *hook);
		if (error == 0)
			return 0;
		*hook = PROBE_HOOK_TC;
	} else {
		*hook = mode == PROBE_XDP ? PROBE_HOOK_XDP : PROBE_HOOK_XDP_GENERIC;
	}
	return probe_kernel_attach(server->kernel, interface, *hook);
}

/* Named interfaces: all of them or none. Otherwise: as many as will, at least one. */
static int server_attach(struct probe_server *server, enum probe_mode mode,
	const struct probe_interface *list, unsigned count)
{
	bool named = server->options.interfaces != NULL;
	enum probe_hook hook;
	int error = 0;

	for (unsigned i = 0; i < count; i++) {
		error = server_attach_one(server, mode, &list[i], &hook);
		server->attached += error == 0;
		log_debug("probe: interface=%s port=%u hook=%s status=%d", list[i].name,
			server->options.port, probe_hook_name(hook), error);
		if (error != 0 && (named || (i == count - 1 && server->attached == 0))) {
			server_because(server, "%s on %s: %s", probe_mode_name(mode), list[i].name,
				strerror(-error));
			return error;
		}
	}
	return 0;
}

static int server_open_kernel(struct probe_server *server, enum probe_mode mode)
{
	const struct probe_kernel_options options = {
		.place = server->place,
		.xdp = mode != PROBE_TC,
		.filter = &server->filter,
	};
	struct probe_interface list[PROBE_INTERFACES_MAX];
	const char *what;
	unsigned count;
	int error = probe_interfaces(server->options.interfaces, list, &count);

	if (error != 0) {
		if (error != -EINVAL) /* that has been logged */
			server_because(server, "%s: interfaces: %s", probe_mode_name(mode),
				strerror(-error));
		return error;
	}
	error = probe_kernel_open(&options, &server->kernel, &what);
	if (error != 0) {
		server_because(server, "%s: %s: %s", probe_mode_name(mode), what, strerror(-error));
		return error;
	}
	/* before it is attached: from then on the slot is read */
	server->slot = probe_kernel_slot(server->kernel);
	server->slot->port = server->options.port;
	server->slot->epoch = server->options.epoch;
	error = server_attach(server, mode, list, count);
	if (error == 0)
		return 0;
	probe_kernel_close(server->kernel);
	server->kernel = NULL;
	server->slot = NULL;
	return error;
}

static size_t server_answer(
	void *context, const struct sockaddr *from, const void *bytes, size_t length, void *answer)
{
	return probe_server_answer(context, from, bytes, length, answer);
}

static int server_open_user(struct probe_server *server)
{
	const struct probe_user_options options = {
		.port = server->options.user_port != 0 ? server->options.user_port
						       : server->options.port,
		.address = server->place.bound ? server->place.address : NULL,
		.priority = server->options.user_priority,
		.answer = server_answer,
		.context = server,
	};
	int error = probe_user_open(&options, &server->user);

	if (error != 0)
		server_because(server, "user: port %u: %s", options.port, strerror(-error));
	return error;
}

static int server_open_slot(struct probe_server *server)
{
	server->own_slot = mem_map(FM_PAGE_SIZE);
	if (server->own_slot == NULL)
		return -ENOMEM;
	server->slot = server->own_slot;
	server->slot->port = server->options.port;
	server->slot->epoch = server->options.epoch;
	return 0;
}

/* 0 and server->mode, or -errno. */
static int server_open_mode(struct probe_server *server)
{
	enum probe_mode wanted = server->options.mode;
	int error;

	server->mode = wanted == PROBE_AUTO ? PROBE_TC : wanted;
	if (server->mode != PROBE_USER && server->mode != PROBE_NONE) {
		error = server_open_kernel(server, server->mode);
		if (error == 0 || wanted != PROBE_AUTO || error == -EINVAL)
			return error;
	}
	error = server_open_slot(server);
	if (error != 0 || wanted == PROBE_NONE)
		return error;
	if (wanted == PROBE_AUTO && server->options.user_port == 0) {
		server_because(server, "user: it has no port of its own");
		error = -ENOENT;
	} else {
		error = server_open_user(server);
	}
	server->mode = error == 0 ? PROBE_USER : PROBE_NONE;
	return wanted == PROBE_AUTO ? 0 : error;
}

static int server_check(const struct probe_server_options *options)
{
	if (options->port == 0) {
		log_error("probe: port=0: a probe needs a port to come to");
		return -EINVAL;
	}
	if ((unsigned)options->mode >= FM_ARRAY_COUNT(mode_names)) {
		log_error("probe: mode=%d: no such mode", (int)options->mode);
		return -EINVAL;
	}
	if (options->user_priority < 0 || options->user_priority > 99) {
		log_error("probe: user_priority=%d: 0..99", options->user_priority);
		return -EINVAL;
	}
	return 0;
}

static int server_parse_place(struct probe_server *server)
{
	static const uint8_t any6[16], any4[16] = {[10] = 0xff, [11] = 0xff};
	struct probe_place *place = &server->place;
	const char *address = server->options.address;

	place->port = server->options.port;
	if (address == NULL)
		return 0;
	if (probe_address_parse(address, place->address) != 0) {
		log_error("probe: address=%s: no address like 10.0.0.1 or fd00::1", address);
		return -EINVAL;
	}
	place->bound = memcmp(place->address, any6, sizeof(any6)) != 0 &&
		       memcmp(place->address, any4, sizeof(any4)) != 0;
	return 0;
}

static uint32_t server_draw_epoch(void)
{
	uint32_t epoch = 0;

	if (getrandom(&epoch, sizeof(epoch), GRND_NONBLOCK) != (ssize_t)sizeof(epoch) || epoch == 0)
		epoch = (uint32_t)clock_now_ns() | 1u;
	return epoch;
}

int probe_server_open(const struct probe_server_options *options, struct probe_server **server)
{
	struct probe_server *made;
	int error = server_check(options);

	if (error != 0)
		return error;
	made = calloc(1, sizeof(*made));
	if (made == NULL)
		return -ENOMEM;
	made->options = *options;
	if (made->options.epoch == 0)
		made->options.epoch = server_draw_epoch();
	error = server_parse_place(made);
	if (error == 0)
		error = probe_filter_parse(options->allow, &made->filter);
	if (error == 0)
		error = server_open_mode(made);
	if (error != 0) {
		if (made->why[0] != '\0')
			log_error("probe: mode=%s port=%u: %s", probe_mode_name(options->mode),
				options->port, made->why);
		probe_server_close(made);
		return error;
	}
	if (made->why[0] != '\0')
		log_info("probe: mode=%s port=%u: %s", probe_mode_name(made->mode), options->port,
			made->why);
	else
		log_info("probe: mode=%s port=%u interfaces=%u", probe_mode_name(made->mode),
			options->port, made->attached);
	*server = made;
	return 0;
}

void probe_server_close(struct probe_server *server)
{
	if (server == NULL)
		return;
	probe_user_close(server->user);
	probe_kernel_close(server->kernel);
	mem_unmap(server->own_slot, FM_PAGE_SIZE);
	free(server);
}

struct load_slot *probe_server_slot(struct probe_server *server)
{
	return server->slot;
}

enum probe_mode probe_server_mode(const struct probe_server *server)
{
	return server->mode;
}

static void server_count(_Atomic uint64_t *counter)
{
	/* relaxed: nobody orders anything by it */
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

size_t probe_server_answer(struct probe_server *server, const struct sockaddr *from,
	const void *bytes, size_t length, void *answer)
{
	struct probe_packet packet;
	uint32_t magic;

	if (length != PROBE_BYTES)
		return 0;
	if (probe_answer(server->slot, clock_now_ns(), bytes, length, &packet) == 0) {
		memcpy(&magic, bytes, sizeof(magic));
		if (magic == PROBE_MAGIC)
			server_count(&server->malformed);
		return 0;
	}
	if (!probe_filter_allows(&server->filter, from)) {
		server_count(&server->refused_source);
		return 0;
	}
	if ((packet.flags & LOAD_UNHEALTHY) != 0)
		server_count(&server->stale);
	server_count(&server->answered);
	memcpy(answer, &packet, sizeof(packet));
	return sizeof(packet);
}

void probe_server_stats(const struct probe_server *server, struct probe_server_stats *stats)
{
	*stats = (struct probe_server_stats){
		.answered = atomic_load_explicit(&server->answered, memory_order_relaxed),
		.refused_source =
			atomic_load_explicit(&server->refused_source, memory_order_relaxed),
		.malformed = atomic_load_explicit(&server->malformed, memory_order_relaxed),
		.stale = atomic_load_explicit(&server->stale, memory_order_relaxed),
	};
	if (server->kernel != NULL)
		probe_kernel_stats(server->kernel, stats);
}
