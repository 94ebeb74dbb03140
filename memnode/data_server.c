/*
 * memnode/data_server.c: the data server's threads, listeners and table of connections.
 *
 * A few threads serve all clients; a connection belongs to one thread (the one with the fewest at
 * accept), which alone reads, writes and closes it. After activity a thread keeps looking for
 * spin_ns before it sleeps: a wake-up costs more than a request. Thread 0 also accepts.
 *
 * Invariants
 *   1. At most connections_max connections. Near that, the oldest that never showed a right
 *      capability is cut for each one accepted; at the limit a newcomer hears WIRE_STATUS_BUSY.
 *      Attached ones are never cut for room.
 *   2. No peer can hold a connection for nothing: hello and capability within UNATTACHED_NS, a
 *      request or reply once begun moves within STALLED_NS.
 *   3. Everything received is used under the connection's mutex, `cut` looked at first: so
 *      data_fence, which sets `cut` under that mutex, is a fence.
 *   4. Nobody holds two connections' mutexes: data_fence lets go of its own, and its caller looks
 *      at `cut` again.
 *
 * Locks: see memnode/data_connection.h. slots_mutex guards the free list and the threads'
 * connection counts.
 */
#include "memnode/data_server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "memnode/data_connection.h"
#include "memnode/data_listen.h"
#include "rpc/spin.h"

#define UNATTACHED_NS (5 * NS_PER_S)
#define STALLED_NS (30 * NS_PER_S)
#define TICK_NS (1 * NS_PER_S)
#define EVENTS_MAX 64
#define ACCEPTS_MAX 64 /* at a time */
#define DELAY_OLD_NS (100 * NS_PER_MS)

/* epoll data: a connection's place, or one of these. */
#define EVENT_TCP UINT32_MAX
#define EVENT_UNIX (UINT32_MAX - 1)
#define EVENT_STOP (UINT32_MAX - 2)

struct data_thread {
	struct data_server *server;
	unsigned index;
	pthread_t thread;
	int epoll;
	uint32_t connections_count; /* slots_mutex */
	struct data_counters counters;
	/* Its load: written by the thread, read by data_server_load; all relaxed. */
	_Atomic uint64_t batch_ns; /* when what it serves now was found ready; 0: idle */
	_Atomic uint64_t delay_at_ns;
	_Atomic uint32_t batch_left, delay_ns;
} FM_ALIGNED(FM_CACHE_LINE);

struct data_server {
	struct lease_table *table;
	uint64_t spin_ns, slow_reply_ns;
	unsigned threads_count;
	int tcp, unix_socket, stop,
		spare; /* spare: given up to accept and refuse when descriptors run out */
	uint16_t port;
	char unix_path[108];
	_Atomic bool stopping;
	uint64_t sequence; /* thread 0's */
	pthread_mutex_t slots_mutex;
	uint32_t connections_max, connections_count;
	uint32_t slots_used; /* places ever used */
	uint32_t free_count;
	uint32_t free_slots[DATA_CONNECTIONS_MAX];
	struct data_thread threads[DATA_THREADS_MAX];
	struct data_connection connections[DATA_CONNECTIONS_MAX];
};

/* --- hello and fence --- */

uint16_t data_check_hello(const struct data_connection *c, const uint8_t bytes[WIRE_HELLO_BYTES])
{
	struct wire_hello hello;
	int r = wire_decode_hello(bytes, &hello);
	if (r == -EPROTONOSUPPORT) {
		log_ratelimited(LOG_WARN, "memnode: client refused, wire version %u, ours is %u",
			hello.version, WIRE_VERSION);
		return WIRE_STATUS_VERSION;
	}
	if (r || hello.kind != WIRE_CLIENT || hello.transport != c->transport) {
		log_ratelimited(LOG_WARN, "memnode: no farmem client on the data port, refused");
		return WIRE_STATUS_PROTO;
	}
	return WIRE_STATUS_OK;
}

void data_answer_hello(
	const struct data_connection *c, uint16_t status, uint8_t bytes[WIRE_HELLO_BYTES])
{
	struct wire_hello hello = {.version = WIRE_VERSION,
		.kind = WIRE_NODE,
		.transport = (uint8_t)c->transport,
		.connection = atomic_load(&c->id),
		.incarnation = lease_table_incarnation(c->table),
		.status = status};
	if (status)
		hello.connection = hello.incarnation = 0;
	wire_encode_hello(&hello, bytes);
}

/* Nothing received on it will be used from now on; its thread hears of it and closes. Its mutex is
 * held. */
static void connection_cut(struct data_connection *c)
{
	c->cut = true;
	(void)shutdown(c->fd, SHUT_RDWR);
}

uint16_t data_fence(struct data_connection *c, uint64_t id)
{
	struct data_server *server = c->server;
	if (id == 0 || id == atomic_load(&c->id))
		return WIRE_STATUS_PROTO;
	for (uint32_t i = 0; i < server->connections_max; i++) {
		struct data_connection *old = &server->connections[i];
		if (atomic_load(&old->id) != id)
			continue;
		pthread_mutex_unlock(&c->mutex); /* invariant 4 */
		pthread_mutex_lock(&old->mutex);
		if (atomic_load(&old->id) == id)
			connection_cut(old);
		pthread_mutex_unlock(&old->mutex);
		pthread_mutex_lock(&c->mutex);
		return WIRE_STATUS_OK;
	}
	return WIRE_STATUS_OK; /* closed: ids never come back, and what it received was used before
				  it closed */
}

/* --- connections --- */

static uint64_t random_id(void)
{
	uint64_t id = 0;
	while (id == 0)
		if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
			id = 0;
	return id;
}

/* A free place, charged to the thread with the fewest connections. NULL: full. */
static struct data_connection *slot_take(struct data_server *server)
{
	struct data_connection *c = NULL;
	pthread_mutex_lock(&server->slots_mutex);
	if (server->connections_count < server->connections_max) {
		uint32_t slot = server->free_count ? server->free_slots[--server->free_count]
						   : server->slots_used++;
		unsigned best = 0;
		for (unsigned i = 1; i < server->threads_count; i++)
			if (server->threads[i].connections_count <
				server->threads[best].connections_count)
				best = i;
		server->threads[best].connections_count++;
		server->connections_count++;
		c = &server->connections[slot];
		c->thread = best;
	}
	pthread_mutex_unlock(&server->slots_mutex);
	return c;
}

static void slot_give(struct data_server *server, struct data_connection *c)
{
	pthread_mutex_lock(&server->slots_mutex);
	server->free_slots[server->free_count++] = (uint32_t)(c - server->connections);
	server->threads[c->thread].connections_count--;
	server->connections_count--;
	pthread_mutex_unlock(&server->slots_mutex);
}

/* Its mutex is held by its own thread. */
static void connection_close(struct data_connection *c)
{
	atomic_store(&c->id, 0);
	close(c->fd); /* leaves the epoll set with it */
	c->fd = -1;
	data_detach_all(c);
	slot_give(c->server, c);
}

static void connection_begin(struct data_server *server, struct data_connection *c, int fd,
	enum wire_transport transport)
{
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLRDHUP, .data.u64 = (uint64_t)(c - server->connections)};
	struct data_thread *thread = &server->threads[c->thread];
	pthread_mutex_lock(&c->mutex);
	c->server = server;
	c->counters = &thread->counters;
	c->table = server->table;
	c->slow_reply_ns = server->slow_reply_ns;
	c->fd = fd;
	c->epoll = thread->epoll;
	c->transport = transport;
	atomic_store(&c->attached, false);
	c->cut = c->blocked = c->moved = c->after_write = false;
	c->accepted_ns = c->moved_ns = clock_now_ns();
	c->phase = DATA_HELLO;
	c->input_first = c->input_end = 0;
	c->replies_first = c->replies_count = c->reply_sent = 0;
	atomic_store(&c->sequence, ++server->sequence);
	atomic_store(&c->id, random_id());
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, fd, &event))
		connection_close(c);
	pthread_mutex_unlock(&c->mutex);
}

/* Cuts the oldest connection that never showed a right capability, if there is one. Thread 0, no
 * mutex held. */
static void cut_oldest_unattached(struct data_server *server)
{
	struct data_connection *oldest = NULL;
	for (uint32_t i = 0; i < server->slots_used; i++) {
		struct data_connection *c = &server->connections[i];
		if (!atomic_load(&c->id) || atomic_load(&c->attached))
			continue;
		if (!oldest || atomic_load(&c->sequence) < atomic_load(&oldest->sequence))
			oldest = c;
	}
	if (!oldest)
		return;
	pthread_mutex_lock(&oldest->mutex);
	if (atomic_load(&oldest->id) && !atomic_load(&oldest->attached) && !oldest->cut) {
		log_ratelimited(
			LOG_WARN, "memnode: too many connections, cutting one without a lease");
		connection_cut(oldest);
	}
	pthread_mutex_unlock(&oldest->mutex);
}

static void refuse_busy(int fd, enum wire_transport transport)
{
	struct wire_hello hello = {.version = WIRE_VERSION,
		.kind = WIRE_NODE,
		.transport = (uint8_t)transport,
		.status = WIRE_STATUS_BUSY};
	uint8_t bytes[WIRE_HELLO_BYTES];
	wire_encode_hello(&hello, bytes);
	(void)!send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
	log_ratelimited(
		LOG_WARN, "memnode: connection refused, all %u in use", DATA_CONNECTIONS_MAX);
}

static void set_tcp_options(int fd)
{
	int one = 1, idle_s = 60, interval_s = 10, count = 6;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

/* Out of descriptors: the spare one lets the newcomer be taken off the queue and turned away. */
static void accept_without_descriptors(struct data_server *server, int listener)
{
	log_ratelimited(LOG_WARN, "memnode: out of file descriptors, connection refused");
	cut_oldest_unattached(server);
	close(server->spare);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	server->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_some(struct data_server *server, int listener, enum wire_transport transport)
{
	const uint32_t reserve = server->connections_max / 64 + 1;
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE))
			accept_without_descriptors(server, listener);
		if (fd < 0)
			return;
		pthread_mutex_lock(&server->slots_mutex);
		bool near_full = server->connections_count + reserve >= server->connections_max;
		pthread_mutex_unlock(&server->slots_mutex);
		if (near_full)
			cut_oldest_unattached(server);
		if (transport == WIRE_TCP)
			set_tcp_options(fd);
		struct data_connection *c = slot_take(server);
		if (c)
			connection_begin(server, c, fd, transport);
		else
			refuse_busy(fd, transport);
	}
}

/* --- threads --- */

static void connection_serve(struct data_thread *thread, struct data_connection *c)
{
	pthread_mutex_lock(&c->mutex);
	/* A stale event of a batch may find the place free, or another's. */
	if (atomic_load(&c->id) && c->thread == thread->index) {
		bool was_blocked = c->blocked;
		bool keep = !c->cut;
		if (keep)
			keep = c->transport == WIRE_TCP ? data_tcp_serve(c) : data_shm_serve(c);
		if (!keep) {
			connection_close(c);
		} else if (c->blocked != was_blocked) {
			/* With replies waiting for room, requests wait too (bounded memory). */
			struct epoll_event event = {
				.events = c->blocked ? EPOLLOUT : EPOLLIN | EPOLLRDHUP,
				.data.u64 = (uint64_t)(c - thread->server->connections)};
			(void)epoll_ctl(c->epoll, EPOLL_CTL_MOD, c->fd, &event);
		}
	}
	pthread_mutex_unlock(&c->mutex);
}

/* Has this peer kept us waiting too long? */
static bool connection_overdue(struct data_connection *c, uint64_t now_ns)
{
	bool owes = c->phase != DATA_HEADER || c->input_first != c->input_end || c->replies_count;
	if (c->moved || !owes)
		c->moved_ns = now_ns;
	c->moved = false;
	if (!atomic_load(&c->attached) && now_ns > c->accepted_ns + UNATTACHED_NS)
		return true;
	return now_ns > c->moved_ns + STALLED_NS;
}

static void thread_tick(struct data_thread *thread, uint64_t now_ns)
{
	struct data_server *server = thread->server;
	pthread_mutex_lock(&server->slots_mutex);
	const uint32_t slots_used = server->slots_used;
	pthread_mutex_unlock(&server->slots_mutex);
	for (uint32_t i = 0; i < slots_used; i++) {
		struct data_connection *c = &server->connections[i];
		if (!atomic_load_explicit(&c->id, memory_order_relaxed))
			continue;
		pthread_mutex_lock(&c->mutex);
		if (atomic_load(&c->id) && c->thread == thread->index) {
			bool overdue = connection_overdue(c, now_ns);
			/* An shm client's reads and writes do not pass here: being connected is its
			 * traffic. */
			if (c->transport == WIRE_SHM)
				data_touch_all(c);
			if (overdue)
				data_count(&thread->counters.dropped_count, 1);
			if (overdue || c->cut)
				connection_close(c);
		}
		pthread_mutex_unlock(&c->mutex);
	}
}

static void thread_handle(struct data_thread *thread, uint64_t event)
{
	struct data_server *server = thread->server;
	if (event == EVENT_TCP)
		accept_some(server, server->tcp, WIRE_TCP);
	else if (event == EVENT_UNIX)
		accept_some(server, server->unix_socket, WIRE_SHM);
	else if (event < DATA_CONNECTIONS_MAX)
		connection_serve(thread, &server->connections[event]);
}

/* Serves what is ready, one after the other, and says how long that makes the last one wait. */
static void thread_serve(struct data_thread *thread, const struct epoll_event *events, int count)
{
	uint64_t found_ns = clock_now_ns(), begun_ns = found_ns;
	atomic_store_explicit(&thread->batch_ns, found_ns, memory_order_relaxed);
	for (int i = 0; i < count; i++) {
		atomic_store_explicit(
			&thread->batch_left, (uint32_t)(count - i), memory_order_relaxed);
		if (i > 0 && i == count - 1)
			begun_ns = clock_now_ns();
		thread_handle(thread, events[i].data.u64);
	}
	atomic_store_explicit(&thread->delay_ns, (uint32_t)FM_MIN(begun_ns - found_ns, UINT32_MAX),
		memory_order_relaxed);
	atomic_store_explicit(&thread->delay_at_ns, begun_ns, memory_order_relaxed);
	atomic_store_explicit(&thread->batch_left, 0, memory_order_relaxed);
	atomic_store_explicit(&thread->batch_ns, 0, memory_order_relaxed);
}

static void *thread_main(void *argument)
{
	struct data_thread *thread = argument;
	struct data_server *server = thread->server;
	struct epoll_event events[EVENTS_MAX];
	struct spin spin = {0};
	uint64_t now = clock_now_ns(), tick_ns = now, spin_until_ns = 0;
	while (!atomic_load_explicit(&server->stopping, memory_order_acquire)) {
		const bool spinning = now < spin_until_ns;
		int n = epoll_wait(thread->epoll, events, EVENTS_MAX,
			spinning ? 0 : (int)(TICK_NS / NS_PER_MS));
		if (n > 0)
			thread_serve(thread, events, n);
		now = clock_now_ns();
		if (spinning && (n > 0 || now >= spin_until_ns))
			spin_note(&spin, n > 0);
		if (n > 0)
			spin_until_ns = spin_is_worth_it(&spin) ? now + server->spin_ns : 0;
		if (now - tick_ns >= TICK_NS) {
			tick_ns = now;
			thread_tick(thread, now);
		}
	}
	return NULL;
}

/* --- opening and closing --- */

static int epoll_add(int epoll, int fd, uint32_t event_data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data};
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/* Of a call that answers with a descriptor or -errno. */
static int keep_descriptor(int result, int *descriptor)
{
	if (result < 0)
		return result;
	*descriptor = result;
	return 0;
}

static int server_listen_unix(struct data_server *server, const char *path)
{
	int r = keep_descriptor(data_listen_unix(path), &server->unix_socket);
	if (r)
		return r;
	memcpy(server->unix_path, path, strlen(path) + 1); /* data_listen_unix checked its length */
	lease_table_share(server->table);
	return 0;
}

static int server_start_thread(struct data_server *server, unsigned index)
{
	struct data_thread *thread = &server->threads[index];
	int r = epoll_add(thread->epoll, server->stop, EVENT_STOP);
	if (!r && index == 0 && server->tcp >= 0)
		r = epoll_add(thread->epoll, server->tcp, EVENT_TCP);
	if (!r && index == 0 && server->unix_socket >= 0)
		r = epoll_add(thread->epoll, server->unix_socket, EVENT_UNIX);
	if (!r)
		r = -pthread_create(&thread->thread, NULL, thread_main, thread);
	return r;
}

static int server_start(struct data_server *server, unsigned threads)
{
	/* All epoll sets before the first thread: it hands connections to the others. */
	for (unsigned i = 0; i < threads; i++) {
		server->threads[i].server = server;
		server->threads[i].index = i;
		server->threads[i].epoll = epoll_create1(EPOLL_CLOEXEC);
		if (server->threads[i].epoll < 0)
			return -errno;
	}
	/* From the last to the first, so that thread 0 accepts when the others run. */
	for (unsigned i = threads; i-- > 0;) {
		int r = server_start_thread(server, i);
		if (r)
			return r;
	}
	return 0;
}

static struct data_server *server_make(const struct data_server_options *options)
{
	struct data_server *server = mem_map(sizeof(*server));
	if (!server)
		return NULL;
	server->table = options->leases;
	server->spin_ns = options->spin_ns ? options->spin_ns : DATA_SPIN_NS_DEFAULT;
	server->slow_reply_ns = options->slow_reply_ns;
	server->connections_max =
		options->connections_max ? options->connections_max : DATA_CONNECTIONS_MAX;
	server->tcp = server->unix_socket = -1;
	server->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	server->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pthread_mutex_init(&server->slots_mutex, NULL);
	for (unsigned i = 0; i < DATA_THREADS_MAX; i++)
		server->threads[i].epoll = -1;
	for (uint32_t i = 0; i < server->connections_max; i++)
		pthread_mutex_init(&server->connections[i].mutex, NULL);
	return server;
}

int data_server_open(const struct data_server_options *options, struct data_server **out)
{
	unsigned threads = options->threads;
	*out = NULL;
	if (!threads)
		threads = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
	if (threads > DATA_THREADS_MAX || options->connections_max > DATA_CONNECTIONS_MAX)
		return -EINVAL;
	struct data_server *server = server_make(options);
	if (!server)
		return -ENOMEM;
	server->threads_count = threads;
	int r = server->stop < 0 || server->spare < 0 ? -EMFILE : 0;
	if (!r && options->tcp_address && *options->tcp_address)
		r = keep_descriptor(
			data_listen_tcp(options->tcp_address, &server->port), &server->tcp);
	if (!r && options->unix_path && *options->unix_path)
		r = server_listen_unix(server, options->unix_path);
	if (!r)
		r = server_start(server, threads);
	if (r) {
		data_server_close(server);
		return r;
	}
	*out = server;
	return 0;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void data_server_close(struct data_server *server)
{
	if (!server)
		return;
	atomic_store_explicit(&server->stopping, true, memory_order_release);
	if (server->stop >= 0 && eventfd_write(server->stop, 1))
		log_warn("memnode: waking the data threads failed errno=%d", errno);
	for (unsigned i = 0; i < server->threads_count; i++)
		if (server->threads[i].thread)
			pthread_join(server->threads[i].thread, NULL);
	for (uint32_t i = 0; i < server->slots_used; i++)
		if (atomic_load(&server->connections[i].id))
			connection_close(&server->connections[i]);
	for (unsigned i = 0; i < server->threads_count; i++)
		close_if_open(server->threads[i].epoll);
	if (server->unix_path[0])
		(void)unlink(server->unix_path);
	close_if_open(server->unix_socket);
	close_if_open(server->tcp);
	close_if_open(server->stop);
	close_if_open(server->spare);
	for (uint32_t i = 0; i < server->connections_max; i++)
		pthread_mutex_destroy(&server->connections[i].mutex);
	pthread_mutex_destroy(&server->slots_mutex);
	mem_unmap(server, sizeof(*server));
}

uint16_t data_server_port(const struct data_server *server)
{
	return server->port;
}

uint32_t data_server_connections(struct data_server *server)
{
	pthread_mutex_lock(&server->slots_mutex);
	uint32_t count = server->connections_count;
	pthread_mutex_unlock(&server->slots_mutex);
	return count;
}

void data_server_load(struct data_server *server, struct data_load *load)
{
	uint64_t now_ns = clock_now_ns();
	*load = (struct data_load){0};
	for (unsigned i = 0; i < server->threads_count; i++) {
		struct data_thread *thread = &server->threads[i];
		uint64_t batch_ns = atomic_load_explicit(&thread->batch_ns, memory_order_relaxed);
		uint64_t delay_at_ns =
			atomic_load_explicit(&thread->delay_at_ns, memory_order_relaxed);
		uint32_t delay_ns = atomic_load_explicit(&thread->delay_ns, memory_order_relaxed);
		load->in_flight += atomic_load_explicit(&thread->batch_left, memory_order_relaxed);
		if (batch_ns != 0 &&
			(load->waiting_since_ns == 0 || batch_ns < load->waiting_since_ns))
			load->waiting_since_ns = batch_ns;
		if (now_ns < delay_at_ns + DELAY_OLD_NS)
			load->delay_ns = FM_MAX(load->delay_ns, delay_ns);
	}
}

void data_server_stats(struct data_server *server, struct data_server_stats *stats)
{
	*stats = (struct data_server_stats){.connections_count = data_server_connections(server)};
	for (unsigned i = 0; i < server->threads_count; i++) {
		struct data_counters *c = &server->threads[i].counters;
		stats->reads_count += atomic_load(&c->reads_count);
		stats->writes_count += atomic_load(&c->writes_count);
		stats->read_bytes += atomic_load(&c->read_bytes);
		stats->written_bytes += atomic_load(&c->written_bytes);
		stats->fences_count += atomic_load(&c->fences_count);
		stats->refused_count += atomic_load(&c->refused_count);
		stats->dropped_count += atomic_load(&c->dropped_count);
	}
}
