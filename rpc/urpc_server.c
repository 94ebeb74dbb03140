/*
 * rpc/urpc_server.c: a urpc server: opening, starting, closing; the pool, the load it publishes.
 *
 * See rpc/urpc.h; how the parts work together is in rpc/urpc_serve.h. Nothing is allocated per
 * request.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "rpc/urpc_serve.h"
#include "rpc/urpc_shm.h"

#define REPLY_BYTES (sizeof(struct urpc_reply_head) + URPC_MESSAGE_BYTES_MAX)
#define WORK_BYTES FM_ALIGN_UP(URPC_DATAGRAM_BYTES_MAX + REPLY_BYTES, (size_t)64)
#define FREE_BYTES_PERIOD_NS 1000000u /* the callback is not asked more often */

/* --- what all threads share: the lock is held --- */

struct urpc_work *urpc_server_pool_take(struct urpc_server *server)
{
	struct urpc_work *work = server->pool;

	FM_ASSERT(work != NULL); /* invariant 3 of rpc/urpc_serve.h */
	server->pool = work->next;
	work->next = NULL;
	work->fiber = NULL;
	work->gather = NULL;
	work->once = URPC_ONCE_NONE;
	work->used_ns = 0;
	work->reply_bytes = 0;
	work->status = 0;
	work->refused = work->in_flight = false;
	atomic_store_explicit(&work->cancelled, false, memory_order_relaxed);
	return work;
}

void urpc_server_pool_give(struct urpc_server *server, struct urpc_work *work)
{
	urpc_gather_free(work->gather);
	work->gather = NULL;
	work->id = 0;
	work->next = server->pool;
	server->pool = work;
}

static uint64_t server_waiting_since(const struct urpc_server *server)
{
	if (atomic_load_explicit(&server->queue_count, memory_order_relaxed) == 0)
		return 0;
	return server->queue[server->queue_head & server->queue_mask]->call.arrival_ns;
}

static uint16_t server_flags(const struct urpc_server *server)
{
	return atomic_load_explicit(&server->draining, memory_order_relaxed) ? LOAD_DRAINING : 0;
}

static uint16_t saturate16(uint32_t value)
{
	return (uint16_t)FM_MIN(value, (uint32_t)UINT16_MAX);
}

void urpc_server_publish(struct urpc_server *server, uint64_t now_ns)
{
	struct load_report report = {.stamp_ns = now_ns,
		.waiting_since_ns = server_waiting_since(server),
		.delay_ns = server->delay_ns,
		.in_flight = saturate16(server->in_flight),
		.flags = server_flags(server)};

	if (server->options.free_bytes != NULL &&
		now_ns - server->free_bytes_ns >= FREE_BYTES_PERIOD_NS) {
		server->free_bytes_ns = now_ns;
		server->free_bytes = server->options.free_bytes(server->options.context);
	}
	report.free_bytes = server->free_bytes;
	load_publish(server->slot, &report);
}

struct load urpc_server_load(const struct urpc_server *server, uint64_t now_ns)
{
	uint64_t since_ns = server_waiting_since(server);
	uint64_t waited_ns = since_ns != 0 && now_ns > since_ns ? now_ns - since_ns : 0;

	return (struct load){.epoch = server->slot->epoch,
		.delay_ns = (uint32_t)FM_MIN(FM_MAX(waited_ns, server->delay_ns), UINT32_MAX),
		.in_flight = saturate16(server->in_flight),
		.flags = server_flags(server),
		.free_bytes = server->free_bytes};
}

/* --- opening --- */

static int server_check(const struct urpc_server_options *options)
{
	uint64_t workers = options->workers ? options->workers : 1;
	uint64_t queue = options->queue_max ? options->queue_max : URPC_QUEUE_DEFAULT;

	if (options->methods_count > URPC_METHODS_MAX || workers > URPC_WORKERS_MAX ||
		queue > URPC_QUEUE_MAX || workers * queue > URPC_QUEUE_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < options->methods_count; i++)
		if (options->methods[i].handle == NULL ||
			(options->methods[i].flags & ~URPC_ONCE) != 0)
			return -EINVAL;
	return 0;
}

/* Places of methods by id: open addressing, never more than a quarter full. */
static uint16_t *server_method_place(struct urpc_server *server, uint32_t id)
{
	uint32_t place = id * 0x9e3779b1u >> 22;

	for (;; place++) {
		uint16_t *entry = &server->method_places[place % URPC_METHOD_PLACES];

		if (*entry == 0 || server->methods[*entry - 1].method.id == id)
			return entry;
	}
}

struct urpc_served_method *urpc_server_method(struct urpc_server *server, uint32_t id)
{
	uint16_t index = *server_method_place(server, id);

	return index == 0 ? NULL : &server->methods[index - 1];
}

static int server_open_methods(struct urpc_server *server)
{
	const struct urpc_server_options *options = &server->options;
	bool any_once = false;

	server->methods = calloc(options->methods_count + 1u, sizeof(*server->methods));
	if (server->methods == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < options->methods_count; i++) {
		uint16_t *place = server_method_place(server, options->methods[i].id);

		if (*place != 0)
			return -EINVAL; /* an id twice */
		server->methods[i].method = options->methods[i];
		*place = (uint16_t)(i + 1);
		any_once |= (options->methods[i].flags & URPC_ONCE) != 0;
	}
	return any_once ? urpc_once_open(&server->once) : 0;
}

/* Invariant 3 of rpc/urpc_serve.h. */
static int server_open_pool(struct urpc_server *server)
{
	unsigned senders = server->threaded ? server->workers_count + 1 : 1;
	uint64_t places = 2;

	while (places < server->queue_max)
		places *= 2;
	server->queue_mask = places - 1;
	server->queue = calloc(places, sizeof(struct urpc_work *));
	server->works_count = (unsigned)server->queue_max +
			      server->workers_count * URPC_FIBERS_MAX + senders * URPC_SENDER_MAX +
			      2 * URPC_BATCH_MAX;
	server->works = calloc(server->works_count, sizeof(*server->works));
	server->bytes_size = server->works_count * WORK_BYTES;
	server->bytes = mem_map(server->bytes_size);
	if (server->queue == NULL || server->works == NULL || server->bytes == NULL)
		return -ENOMEM;
	for (unsigned i = server->works_count; i-- > 0;) {
		struct urpc_work *work = &server->works[i];

		work->server = server;
		work->received = server->bytes + i * WORK_BYTES;
		work->reply = work->received + URPC_DATAGRAM_BYTES_MAX;
		urpc_server_pool_give(server, work);
	}
	for (unsigned i = 0; i < URPC_BATCH_MAX; i++) {
		struct urpc_work *work = urpc_server_pool_take(server);

		server->batch_works[i] = work;
		server->batch.at[i] =
			(struct urpc_received){.bytes = work->received, .source = &work->source};
	}
	return 0;
}

static int server_open_workers(struct urpc_server *server)
{
	int r;

	server->workers =
		aligned_alloc(FM_CACHE_LINE, server->workers_count * sizeof(*server->workers));
	if (server->workers == NULL)
		return -ENOMEM;
	memset(server->workers, 0, server->workers_count * sizeof(*server->workers));
	for (unsigned i = 0; i < server->workers_count; i++) {
		struct urpc_worker *worker = &server->workers[i];

		worker->server = server;
		worker->sender = server->threaded ? &worker->own_sender : &server->sender;
		worker->own_sender =
			(struct urpc_sender){.link = server->link, .counters = &worker->counters};
		r = urpc_fibers_open(&worker->fibers, URPC_FIBERS_MAX, URPC_STACK_BYTES);
		if (r)
			return r;
	}
	server->sender = (struct urpc_sender){.link = server->link, .counters = &server->counters};
	return 0;
}

static int server_open_slot(struct urpc_server *server)
{
	uint32_t epoch = 0;

	server->slot = server->options.slot;
	if (server->slot == NULL) {
		server->own_slot = aligned_alloc(FM_CACHE_LINE, sizeof(*server->own_slot));
		if (server->own_slot == NULL)
			return -ENOMEM;
		memset(server->own_slot, 0, sizeof(*server->own_slot));
		server->slot = server->own_slot;
	}
	while (server->slot->epoch == 0) {
		if (getrandom(&epoch, sizeof(epoch), 0) != sizeof(epoch))
			return -EIO;
		server->slot->epoch = epoch;
	}
	server->slot->port = server->link->port;
	return 0;
}

static int server_open_parts(struct urpc_server *server)
{
	enum urpc_transport transport;
	struct urpc_address address;
	int r = urpc_address_parse(server->options.listen, true, &transport, &address);

	if (r)
		return r;
	if (getrandom(&server->hash_key, sizeof(server->hash_key), 0) != sizeof(server->hash_key))
		return -EIO;
	r = transport == URPC_SHM ? urpc_shm_listen(&address, &server->link)
				  : urpc_socket_open(&address, true, &server->link);
	if (r)
		return r;
	r = server_open_methods(server);
	if (r)
		return r;
	r = server_open_pool(server);
	if (r)
		return r;
	r = urpc_gathers_open(&server->gathers, &server->counters.fragments_dropped);
	if (r)
		return r;
	r = server_open_workers(server);
	return r ? r : server_open_slot(server);
}

int urpc_server_open(const struct urpc_server_options *options, struct urpc_server **out)
{
	struct urpc_server *server;
	int r = server_check(options);

	if (r)
		return r;
	server = calloc(1, sizeof(*server));
	if (server == NULL)
		return -ENOMEM;
	server->options = *options;
	server->workers_count = options->workers ? options->workers : 1;
	server->threaded = server->workers_count > 1 || options->apart;
	server->queue_max = (uint64_t)server->workers_count *
			    (options->queue_max ? options->queue_max : URPC_QUEUE_DEFAULT);
	if (server->options.quantum_ns == 0)
		server->options.quantum_ns = URPC_QUANTUM_NS_DEFAULT;
	server->spin_learned = options->spin_ns == 0;
	if (server->spin_learned)
		server->options.spin_ns = URPC_SPIN_NS_DEFAULT;
	pthread_mutex_init(&server->lock, NULL);
	server->opened_ns = clock_now_ns();
	r = server_open_parts(server);
	if (r) {
		urpc_server_close(server);
		return r;
	}
	*out = server;
	return 0;
}

uint16_t urpc_server_port(const struct urpc_server *server)
{
	return server->link->port;
}

void urpc_server_use_slot(struct urpc_server *server, struct load_slot *slot)
{
	FM_ASSERT(!server->started);
	slot->port = server->link->port;
	server->slot = slot;
}

const struct load_slot *urpc_server_slot(const struct urpc_server *server)
{
	return server->slot;
}

/* --- starting and stopping --- */

int urpc_server_start(struct urpc_server *server)
{
	FM_ASSERT(!server->started);
	urpc_server_lock(server);
	urpc_server_publish(server, clock_now_ns());
	urpc_server_unlock(server);
	for (unsigned i = 0; server->threaded && i < server->workers_count; i++) {
		struct urpc_worker *worker = &server->workers[i];

		if (pthread_create(&worker->thread, NULL, urpc_worker_main, worker) != 0)
			return -EAGAIN;
		worker->started = true;
	}
	if (pthread_create(&server->thread, NULL, urpc_dispatch_main, server) != 0)
		return -EAGAIN;
	server->started = true;
	return 0;
}

void urpc_server_drain(struct urpc_server *server)
{
	atomic_store_explicit(&server->draining, true, memory_order_relaxed);
	server->link->ops->wake(server->link);
}

static void server_stop(struct urpc_server *server)
{
	atomic_store(&server->stop, true);
	if (server->started) {
		urpc_server_drain(server);
		pthread_join(server->thread, NULL);
	}
	atomic_store(&server->stop_workers, true);
	for (unsigned i = 0; i < server->workers_count && server->workers != NULL; i++) {
		struct urpc_worker *worker = &server->workers[i];

		if (!worker->started)
			continue;
		urpc_worker_wake(worker);
		pthread_join(worker->thread, NULL);
	}
}

void urpc_server_close(struct urpc_server *server)
{
	if (server == NULL)
		return;
	server_stop(server);
	for (unsigned i = 0; i < server->workers_count && server->workers != NULL; i++)
		if (server->workers[i].server != NULL)
			urpc_fibers_close(&server->workers[i].fibers);
	free(server->workers);
	free(server->own_slot);
	urpc_gathers_close(&server->gathers);
	urpc_once_close(&server->once);
	free(server->methods);
	free(server->queue);
	free(server->works);
	mem_unmap(server->bytes, server->bytes_size);
	if (server->link != NULL)
		server->link->ops->close(server->link);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

/* --- counters --- */

static void stats_add(struct urpc_server_stats *stats, const struct urpc_counters *counters)
{
#define ADD(name) stats->name += atomic_load_explicit(&counters->name, memory_order_relaxed)
	ADD(requests);
	ADD(replies);
	ADD(overloads);
	ADD(expired);
	ADD(cancelled);
	ADD(duplicates);
	ADD(preemptions);
	ADD(malformed);
	ADD(foreign);
	ADD(unknown_methods);
	ADD(fragments_dropped);
	ADD(replies_lost);
#undef ADD
}

void urpc_server_stats(const struct urpc_server *server, struct urpc_server_stats *stats)
{
	*stats = (struct urpc_server_stats){0};
	stats_add(stats, &server->counters);
	for (unsigned i = 0; i < server->workers_count; i++)
		stats_add(stats, &server->workers[i].counters);
}
