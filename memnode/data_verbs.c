/*
 * memnode/data_verbs.c: connections of RDMA clients; see memnode/data_verbs.h. The other half is
 * rpc/fabric_verbs*.c, what the two say to each other is in rpc/wire.h.
 *
 * One connection is one queue pair, and carries one lease. A lease has a protection domain and a
 * registration of its own for each device it is reached by, made at its first connection there: so
 * a queue pair reaches that lease's memory and no other, whatever keys its client guesses.
 *
 *   thread       accepts and buries: the only one to destroy connection ids, so that an event's
 *                id is never gone
 *   lease table  calls lease_cut before a lease's memory goes or changes hands: queue pairs
 *                destroyed, then the registration, then the domain
 *
 * Invariants
 *   1. A lease's memory is registered only while its gate has not been closed since: registering
 *      happens under a reference, and the cut comes after the last of them.
 *   2. When lease_cut returns, no device reads or writes that memory.
 *   3. A connection that names its predecessor (unfenced) is answered after the predecessor's queue
 *      pair was destroyed.
 *   4. Events are acknowledged before they are acted upon.
 *
 * Locks: mutex guards everything below it in the struct; taken after a reference to a lease, never
 * before one.
 */
#include "memnode/data_verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/wire.h"

#define BACKLOG 512
#define DEVICES_MAX 4
#define CQ_ENTRIES 16 /* nothing is ever posted at this end */
#define READS_IN_FLIGHT 16
#define ACK_TIMEOUT 14 /* see rpc/fabric_verbs.h: for what the other end's device must hear */

/* A lease as one device knows it. */
struct verbs_domain {
	struct ibv_pd *pd; /* NULL: none */
	struct ibv_mr *mr;
};

struct verbs_lease {
	uint32_t first; /* connection: its index + 1; 0: none */
	struct verbs_domain domains[DEVICES_MAX];
};

struct verbs_device {
	struct ibv_context *context;
	struct ibv_cq *cq;
	bool on_demand; /* pages need not be pinned */
};

struct verbs_connection {
	struct rdma_cm_id *id; /* NULL: place free */
	uint64_t name;         /* random, told to the client */
	uint32_t place;        /* of its lease */
	uint32_t next;         /* of the same lease, index + 1 */
	bool buried;           /* queue pair gone, to be destroyed by the thread */
};

struct data_verbs {
	struct lease_table *table;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener;
	pthread_t thread;
	bool thread_runs;
	int wake;
	_Atomic bool stopping;
	char address[DATA_VERBS_ADDRESS_BYTES];
	pthread_mutex_t mutex;
	uint32_t devices_count;
	struct verbs_device devices[DEVICES_MAX];
	struct data_verbs_stats stats;
	uint32_t connections_used; /* places ever used */
	struct verbs_connection connections[DATA_VERBS_CONNECTIONS_MAX];
	struct verbs_lease leases[LEASES_MAX];
};

/* ---- devices ---- */

static bool device_has_on_demand(struct ibv_context *context)
{
	struct ibv_device_attr_ex attributes;
	const uint32_t needed = IBV_ODP_SUPPORT_READ | IBV_ODP_SUPPORT_WRITE;
	memset(&attributes, 0, sizeof(attributes));
	return ibv_query_device_ex(context, NULL, &attributes) == 0 &&
	       attributes.odp_caps.general_caps & IBV_ODP_SUPPORT &&
	       (attributes.odp_caps.per_transport_caps.rc_odp_caps & needed) == needed;
}

/* Its number, or -errno. */
static int device_find(struct data_verbs *v, struct ibv_context *context)
{
	for (uint32_t i = 0; i < v->devices_count; i++)
		if (v->devices[i].context == context)
			return (int)i;
	if (v->devices_count == DEVICES_MAX)
		return -ENOSPC;
	struct ibv_cq *cq = ibv_create_cq(context, CQ_ENTRIES, NULL, NULL, 0);
	if (!cq)
		return -ENOMEM;
	v->devices[v->devices_count] = (struct verbs_device){
		.context = context, .cq = cq, .on_demand = device_has_on_demand(context)};
	return (int)v->devices_count++;
}

/* ---- a lease's memory ---- */

static void say_memlock(uint64_t bytes)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY)
		log_ratelimited(
			LOG_WARN, "memnode: the RDMA device refused %" PRIu64 " MiB", bytes >> 20);
	else
		log_ratelimited(LOG_WARN,
			"memnode: cannot pin %" PRIu64 " MiB for RDMA, the limit on locked memory "
			"is %" PRIu64 " MiB: raise it (ulimit -l unlimited; LimitMEMLOCK=infinity "
			"in a systemd unit)",
			bytes >> 20, (uint64_t)limit.rlim_cur >> 20);
}

static void domain_close(struct data_verbs *v, struct verbs_domain *domain)
{
	if (domain->mr) {
		FM_ASSERT_EQ(ibv_dereg_mr(domain->mr), 0);
		v->stats.regions_count--;
	}
	if (domain->pd) {
		FM_ASSERT_EQ(ibv_dealloc_pd(domain->pd), 0);
		v->stats.domains_count--;
	}
	*domain = (struct verbs_domain){0};
}

/* The caller has a reference to the lease: invariant 1. 0 or -errno. */
static int domain_open(struct data_verbs *v, const struct verbs_device *device, struct lease *lease,
	struct verbs_domain *domain)
{
	unsigned access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	if (domain->mr)
		return 0;
	if (device->on_demand)
		access |= IBV_ACCESS_ON_DEMAND;
	domain->pd = ibv_alloc_pd(device->context);
	if (!domain->pd)
		return -ENOMEM;
	v->stats.domains_count++;
	domain->mr = ibv_reg_mr(domain->pd, lease_memory(lease), lease_bytes(lease), access);
	if (!domain->mr) {
		say_memlock(lease_bytes(lease));
		domain_close(v, domain);
		return -ENOMEM;
	}
	v->stats.regions_count++;
	return 0;
}

/* ---- connections ---- */

static uint32_t connection_index(const struct data_verbs *v, const struct verbs_connection *c)
{
	return (uint32_t)(c - v->connections);
}

static struct verbs_connection *connection_take(struct data_verbs *v)
{
	for (uint32_t i = 0; i < v->connections_used; i++)
		if (!v->connections[i].id)
			return &v->connections[i];
	if (v->connections_used == DATA_VERBS_CONNECTIONS_MAX)
		return NULL;
	return &v->connections[v->connections_used++];
}

/* Nothing that its client posted can land any more. The id stays for the thread. The mutex is held.
 */
static void connection_bury(struct data_verbs *v, struct verbs_connection *c)
{
	if (c->buried)
		return;
	uint32_t *at = &v->leases[c->place].first;
	while (*at != connection_index(v, c) + 1)
		at = &v->connections[*at - 1].next;
	*at = c->next;
	c->buried = true;
	rdma_destroy_qp(c->id);
	v->stats.queue_pairs_count--;
	(void)rdma_disconnect(c->id); /* tells the client */
	(void)eventfd_write(v->wake, 1);
}

/* Invariant 3. The mutex is held. */
static void connection_fence(struct data_verbs *v, uint64_t name)
{
	for (uint32_t i = 0; i < v->connections_used; i++) {
		struct verbs_connection *c = &v->connections[i];
		if (c->id && c->name == name)
			connection_bury(v, c);
	}
	v->stats.fences_count++;
}

/* Thread only. */
static void destroy_buried(struct data_verbs *v)
{
	eventfd_t count;
	(void)eventfd_read(v->wake, &count);
	pthread_mutex_lock(&v->mutex);
	for (uint32_t i = 0; i < v->connections_used; i++) {
		struct verbs_connection *c = &v->connections[i];
		if (!c->id || !c->buried)
			continue;
		(void)rdma_destroy_id(c->id);
		*c = (struct verbs_connection){0};
	}
	pthread_mutex_unlock(&v->mutex);
}

static uint64_t random_name(void)
{
	uint64_t name = 0;
	while (name == 0)
		if (getrandom(&name, sizeof(name), 0) != (ssize_t)sizeof(name))
			name = 0;
	return name;
}

/* The lease table's call: queue pairs, then registrations, then domains (DESIGN section 6). */
static void lease_cut_verbs(void *context, uint32_t place)
{
	struct data_verbs *v = context;
	struct verbs_lease *lease = &v->leases[place];
	pthread_mutex_lock(&v->mutex);
	while (lease->first)
		connection_bury(v, &v->connections[lease->first - 1]);
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		domain_close(v, &lease->domains[i]);
	pthread_mutex_unlock(&v->mutex);
}

/* ---- requests ---- */

/* What a request came with; copied, because the event is acknowledged first (invariant 4). */
struct request {
	struct rdma_cm_id *id;
	size_t length;
	uint8_t reads_in_flight; /* that the client asks for */
	uint8_t bytes[256];
};

static int make_queue_pair(struct data_verbs *v, struct rdma_cm_id *id,
	const struct verbs_device *device, struct verbs_domain *domain)
{
	uint8_t timeout = ACK_TIMEOUT;
	struct ibv_qp_init_attr attributes = {.qp_type = IBV_QPT_RC,
		.send_cq = device->cq,
		.recv_cq = device->cq,
		.cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1}};
	(void)rdma_set_option(
		id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
	if (rdma_create_qp(id, domain->pd, &attributes))
		return errno ? -errno : -ENOMEM;
	v->stats.queue_pairs_count++;
	return 0;
}

/* Makes the request's connection. The mutex and a reference to the lease are held. 0 or -errno. */
static int connection_open(struct data_verbs *v, const struct request *request,
	const struct fabric_capability *capability, struct lease *lease,
	struct verbs_connection **connection)
{
	struct verbs_lease *known = &v->leases[capability->region];
	const int d = device_find(v, request->id->verbs);
	if (d < 0)
		return d;
	int r = domain_open(v, &v->devices[d], lease, &known->domains[d]);
	if (r)
		return r;
	struct verbs_connection *c = connection_take(v);
	if (!c)
		return -EBUSY;
	r = make_queue_pair(v, request->id, &v->devices[d], &known->domains[d]);
	if (r)
		return r;
	*c = (struct verbs_connection){.id = request->id,
		.name = random_name(),
		.place = capability->region,
		.next = known->first};
	known->first = connection_index(v, c) + 1;
	request->id->context = c;
	*connection = c;
	return 0;
}

static int connection_accept(struct data_verbs *v, const struct request *request,
	const struct verbs_connection *c, struct lease *lease)
{
	uint8_t bytes[WIRE_VERBS_ANSWER_BYTES];
	int d = device_find(v, request->id->verbs);
	FM_ASSERT_LE(0, d); /* connection_open found it */
	const struct verbs_domain *domain = &v->leases[c->place].domains[d];
	const struct wire_verbs_answer answer = {.version = WIRE_VERBS_VERSION,
		.connection = c->name,
		.incarnation = lease_table_incarnation(v->table),
		.address = (uintptr_t)lease_memory(lease),
		.bytes = lease_bytes(lease),
		.rkey = domain->mr->rkey};
	struct rdma_conn_param param = {.private_data = bytes,
		.private_data_len = sizeof(bytes),
		.responder_resources = FM_MIN(request->reads_in_flight, READS_IN_FLIGHT),
		.rnr_retry_count = 6};
	wire_encode_verbs_answer(&answer, bytes);
	return rdma_accept(c->id, &param) ? -errno : 0;
}

/* Serves a request whose form was right. 0: accepted (the id is the connection's); or -errno. */
static int request_serve(
	struct data_verbs *v, const struct request *request, const struct wire_verbs_request *asked)
{
	struct lease *lease;
	struct verbs_connection *c = NULL;
	if (lease_get(v->table, &asked->capability, &lease))
		return -EACCES;
	lease_touch(lease);
	pthread_mutex_lock(&v->mutex);
	if (asked->unfenced)
		connection_fence(v, asked->unfenced);
	int r = connection_open(v, request, &asked->capability, lease, &c);
	if (!r) {
		/* If that fails the client has gone away: buried like any other. */
		if (connection_accept(v, request, c, lease))
			connection_bury(v, c);
		else
			v->stats.accepted_count++;
	}
	pthread_mutex_unlock(&v->mutex);
	lease_put(lease);
	return r;
}

static void request_refuse(struct data_verbs *v, const struct request *request, int error)
{
	uint8_t bytes[WIRE_VERBS_ANSWER_BYTES];
	const struct wire_verbs_answer answer = {
		.version = WIRE_VERBS_VERSION, .status = (uint8_t)wire_status_of(error)};
	wire_encode_verbs_answer(&answer, bytes);
	pthread_mutex_lock(&v->mutex);
	v->stats.refused_count++;
	pthread_mutex_unlock(&v->mutex);
	(void)rdma_reject(request->id, bytes, sizeof(bytes));
	(void)rdma_destroy_id(request->id);
}

static void request_take(struct data_verbs *v, const struct request *request)
{
	struct wire_verbs_request asked;
	int r = wire_decode_verbs_request(request->bytes, request->length, &asked);
	if (r == -EPROTONOSUPPORT)
		log_ratelimited(LOG_WARN, "memnode: verbs client refused, version %u, ours is %u",
			asked.version, WIRE_VERBS_VERSION);
	else if (r)
		log_ratelimited(LOG_WARN, "memnode: no farmem client on the verbs port, refused");
	if (!r)
		r = request_serve(v, request, &asked);
	if (r)
		request_refuse(v, request, r == -ENOSPC ? -EBUSY : r);
}

/* ---- the thread ---- */

static void event_take(struct data_verbs *v)
{
	struct rdma_cm_event *event;
	struct request request = {0};
	if (rdma_get_cm_event(v->channel, &event))
		return;
	const enum rdma_cm_event_type type = event->event;
	request.id = event->id;
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
		request.length =
			FM_MIN((size_t)event->param.conn.private_data_len, sizeof(request.bytes));
		if (event->param.conn.private_data)
			memcpy(request.bytes, event->param.conn.private_data, request.length);
		else
			request.length = 0;
		request.reads_in_flight = event->param.conn.responder_resources;
	}
	(void)rdma_ack_cm_event(event);
	switch (type) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		request_take(v, &request);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		pthread_mutex_lock(&v->mutex);
		if (request.id->context) /* the listener has none */
			connection_bury(v, request.id->context);
		pthread_mutex_unlock(&v->mutex);
		break;
	default: /* ESTABLISHED, TIMEWAIT_EXIT: nothing follows */
		break;
	}
}

static void *thread_main(void *argument)
{
	struct data_verbs *v = argument;
	while (!atomic_load_explicit(&v->stopping, memory_order_acquire)) {
		struct pollfd fds[2] = {{.fd = v->channel->fd, .events = POLLIN},
			{.fd = v->wake, .events = POLLIN}};
		(void)poll(fds, 2, -1);
		if (fds[0].revents)
			event_take(v);
		if (fds[1].revents)
			destroy_buried(v);
	}
	return NULL;
}

/* ---- opening and closing ---- */

/* "host:port", "[v6]:port". */
static int address_find(const char *text, struct addrinfo **info)
{
	char host[256];
	const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(text, ':');
	if (!colon || !colon[1] || colon == text || (size_t)(colon - text) >= sizeof(host))
		return -EINVAL;
	size_t length = (size_t)(colon - text);
	if (text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	return getaddrinfo(host, colon + 1, &hints, info) ? -EADDRNOTAVAIL : 0;
}

/* The address as it was bound, in numbers. */
static int address_write(struct data_verbs *v)
{
	char host[INET6_ADDRSTRLEN + 1];
	const struct sockaddr *bound = rdma_get_local_addr(v->listener);
	const bool v6 = bound->sa_family == AF_INET6;
	const socklen_t length = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	if (getnameinfo(bound, length, host, sizeof(host), NULL, 0, NI_NUMERICHOST))
		return -EADDRNOTAVAIL;
	snprintf(v->address, sizeof(v->address), v6 ? "[%s]:%u" : "%s:%u", host,
		ntohs(rdma_get_src_port(v->listener)));
	return 0;
}

static int verbs_listen(struct data_verbs *v, const char *address)
{
	struct addrinfo *info;
	int r = address_find(address, &info);
	if (r)
		return r;
	if (rdma_create_id(v->channel, &v->listener, NULL, RDMA_PS_TCP) ||
		rdma_bind_addr(v->listener, info->ai_addr) || rdma_listen(v->listener, BACKLOG))
		r = -errno;
	freeaddrinfo(info);
	return r ? r : address_write(v);
}

static bool has_device(struct rdma_event_channel *channel, struct sockaddr *address)
{
	struct rdma_cm_id *id;
	if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP))
		return false;
	const bool has = rdma_bind_addr(id, address) == 0 && id->verbs != NULL;
	(void)rdma_destroy_id(id);
	return has;
}

int data_verbs_find(char address[DATA_VERBS_ADDRESS_BYTES])
{
	struct ifaddrs *all;
	int r = -ENODEV;
	struct rdma_event_channel *channel = rdma_create_event_channel();
	if (!channel)
		return -ENOSYS;
	if (getifaddrs(&all))
		all = NULL;
	for (const struct ifaddrs *at = all; at && r; at = at->ifa_next) {
		if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET ||
			!has_device(channel, at->ifa_addr))
			continue;
		r = getnameinfo(at->ifa_addr, sizeof(struct sockaddr_in), address,
			    DATA_VERBS_ADDRESS_BYTES, NULL, 0, NI_NUMERICHOST)
			    ? -ENODEV
			    : 0;
	}
	freeifaddrs(all);
	rdma_destroy_event_channel(channel);
	return r;
}

static int verbs_start(struct data_verbs *v, const char *address)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	if (devices)
		ibv_free_device_list(devices);
	v->channel = devices ? rdma_create_event_channel() : NULL;
	if (!v->channel)
		return -ENOSYS;
	if (count == 0)
		return -ENODEV;
	v->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake < 0 || fcntl(v->channel->fd, F_SETFL, O_NONBLOCK) ||
		fcntl(v->channel->fd, F_SETFD, FD_CLOEXEC))
		return -errno;
	int r = verbs_listen(v, address);
	if (r)
		return r;
	lease_table_on_cut(v->table, lease_cut_verbs, v);
	r = -pthread_create(&v->thread, NULL, thread_main, v);
	v->thread_runs = r == 0;
	return r;
}

int data_verbs_open(const struct data_verbs_options *options, struct data_verbs **verbs)
{
	*verbs = NULL;
	struct data_verbs *v = mem_map(sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->table = options->leases;
	v->wake = -1;
	pthread_mutex_init(&v->mutex, NULL);
	int r = verbs_start(v, options->address);
	if (r) {
		data_verbs_close(v);
		return r;
	}
	*verbs = v;
	return 0;
}

void data_verbs_close(struct data_verbs *v)
{
	if (!v)
		return;
	atomic_store_explicit(&v->stopping, true, memory_order_release);
	if (v->thread_runs) {
		(void)eventfd_write(v->wake, 1);
		pthread_join(v->thread, NULL);
	}
	lease_table_on_cut(v->table, NULL, NULL); /* returns when no cut is under way */
	for (uint32_t place = 0; place < LEASES_MAX; place++)
		lease_cut_verbs(v, place);
	if (v->thread_runs)
		destroy_buried(v);
	if (v->listener)
		(void)rdma_destroy_id(v->listener);
	for (uint32_t i = 0; i < v->devices_count; i++)
		FM_ASSERT_EQ(ibv_destroy_cq(v->devices[i].cq), 0);
	FM_ASSERT_EQ(v->stats.queue_pairs_count + v->stats.regions_count, 0);
	if (v->channel)
		rdma_destroy_event_channel(v->channel);
	if (v->wake >= 0)
		close(v->wake);
	pthread_mutex_destroy(&v->mutex);
	mem_unmap(v, sizeof(*v));
}

const char *data_verbs_address(const struct data_verbs *v)
{
	return v->address;
}

void data_verbs_stats(struct data_verbs *v, struct data_verbs_stats *stats)
{
	pthread_mutex_lock(&v->mutex);
	*stats = v->stats;
	pthread_mutex_unlock(&v->mutex);
}
