/*
 * memnode/node_load.c: see node_load.h.
 *
 * Invariants
 *   1. Only the thread writes the slot (rpc/load.h, invariant 1).
 *   2. Nothing here can keep the node from starting but a wrong option, and no memory.
 */
#include "memnode/node_load.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "memnode/daemon_options.h"

#define PUBLISH_MS 10    /* below LOAD_REFRESH_NS */
#define QUESTIONS_MAX 64 /* answered before it publishes once more */
#define CPU_WINDOW_NS NS_PER_S
_Static_assert(PUBLISH_MS *NS_PER_MS < LOAD_REFRESH_NS, "fresh enough");

struct node_load {
	struct node_load_options options;
	struct probe_server *probe; /* NULL: nobody can ask */
	uint32_t epoch;
	int fd, stop_fd;
	pthread_t thread;
	bool runs;
	_Atomic bool draining;
	pthread_mutex_t cpu_lock; /* guards what follows */
	uint64_t cpu_at_ns, cpu_used_ns;
	double cpu_share; /* of the machine */
};

/* --- publishing ---------------------------------------------------------------------------------
 */

static uint64_t used_ns(void)
{
	struct rusage usage;
	if (getrusage(RUSAGE_SELF, &usage) != 0)
		return 0;
	return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * NS_PER_S +
	       ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * NS_PER_US;
}

/* Over the last second or so. */
static double cpu_share(struct node_load *load)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t now_ns = clock_now_ns(), elapsed_ns;
	double share;
	pthread_mutex_lock(&load->cpu_lock);
	elapsed_ns = now_ns - load->cpu_at_ns;
	if (elapsed_ns >= CPU_WINDOW_NS) {
		uint64_t used = used_ns();
		load->cpu_share = (double)(used - load->cpu_used_ns) /
				  ((double)elapsed_ns * (double)(cpus > 0 ? cpus : 1));
		load->cpu_at_ns = now_ns;
		load->cpu_used_ns = used;
	}
	share = load->cpu_share;
	pthread_mutex_unlock(&load->cpu_lock);
	return share;
}

static void look(struct node_load *load, struct load_report *report)
{
	struct data_load data;
	struct lease_usage usage;
	data_server_load(load->options.data, &data);
	lease_table_usage(load->options.leases, &usage);
	*report = (struct load_report){
		.stamp_ns = clock_now_ns(),
		.waiting_since_ns = data.waiting_since_ns,
		.free_bytes = usage.memory_bytes > usage.leased_bytes
				      ? usage.memory_bytes - usage.leased_bytes
				      : 0,
		.delay_ns = data.delay_ns,
		.in_flight = (uint16_t)FM_MIN(data.in_flight, UINT16_MAX),
		.flags = atomic_load(&load->draining) ? LOAD_DRAINING : 0,
	};
}

static void publish(struct node_load *load)
{
	struct load_report report;
	look(load, &report);
	load_publish(probe_server_slot(load->probe), &report);
}

static void answer_questions(struct node_load *load)
{
	for (unsigned i = 0; i < QUESTIONS_MAX; i++) {
		uint8_t question[PROBE_BYTES + 1], answer[PROBE_BYTES + 1];
		struct sockaddr_storage from;
		socklen_t from_bytes = sizeof from;
		ssize_t got = recvfrom(load->fd, question, sizeof question, MSG_DONTWAIT,
			(struct sockaddr *)&from, &from_bytes);
		size_t length;
		if (got < 0)
			return;
		length = probe_server_answer(
			load->probe, (struct sockaddr *)&from, question, (size_t)got, answer);
		/* One that cannot be sent is a lost datagram: who asks copes. */
		if (length > 0)
			(void)!sendto(load->fd, answer, length, MSG_DONTWAIT | MSG_NOSIGNAL,
				(struct sockaddr *)&from, from_bytes);
	}
}

static void *load_thread(void *argument)
{
	struct node_load *load = argument;
	for (;;) {
		struct pollfd fds[2] = {
			{.fd = load->stop_fd, .events = POLLIN},
			{.fd = load->fd, .events = POLLIN},
		};
		publish(load);
		answer_questions(load);
		poll(fds, FM_ARRAY_COUNT(fds), PUBLISH_MS);
		if (fds[0].revents != 0)
			return NULL;
	}
}

/* --- opening ------------------------------------------------------------------------------------
 */

static int socket_bind(const struct node_load_options *options)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_DGRAM}, *found;
	char host[DAEMON_ADDRESS_BYTES], service[8];
	uint16_t port;
	int fd, error;
	if (daemon_address_split(options->address, host, &port) != 0)
		return -EINVAL;
	snprintf(service, sizeof service, "%u", options->port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return -EADDRNOTAVAIL;
	fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	error = fd < 0 ? -errno : 0;
	if (error == 0 && bind(fd, found->ai_addr, found->ai_addrlen) != 0) {
		error = -errno;
		close(fd);
	}
	freeaddrinfo(found);
	return error == 0 ? fd : error;
}

static void open_socket(struct node_load *load)
{
	const struct node_load_options *options = &load->options;
	if (options->port == 0 || options->mode == PROBE_NONE)
		return;
	load->fd = socket_bind(options);
	if (load->fd < 0)
		log_warn("memnode: probes are not answered: UDP port %u: %s", options->port,
			strerror(-load->fd));
}

/* The best there is: the kernel's program when it was asked for, else a slot alone, answered from
 * by our socket. */
static int open_probe(struct node_load *load)
{
	enum probe_mode mode = load->options.mode;
	struct probe_server_options options = {
		.mode = mode == PROBE_AUTO ? PROBE_TC : mode,
		.port = load->options.port,
		.allow = load->options.allow,
		.epoch = load->epoch,
	};
	int error;
	if (load->fd < 0)
		return 0;
	if (mode != PROBE_USER) {
		error = probe_server_open(&options, &load->probe);
		if (error == 0 || error == -EINVAL)
			return error;
		log_warn("memnode: probes are answered by user space: %s: %s",
			probe_mode_name(options.mode), strerror(-error));
	}
	options.mode = PROBE_NONE;
	return probe_server_open(&options, &load->probe);
}

int node_load_open(const struct node_load_options *options, struct node_load **out)
{
	struct node_load *load = calloc(1, sizeof *load);
	int error;
	*out = NULL;
	if (load == NULL)
		return -ENOMEM;
	load->options = *options;
	load->fd = -1;
	load->epoch = (uint32_t)lease_table_incarnation(options->leases) | 1; /* never 0 */
	pthread_mutex_init(&load->cpu_lock, NULL);
	load->cpu_at_ns = clock_now_ns();
	load->cpu_used_ns = used_ns();
	load->stop_fd = eventfd(0, EFD_CLOEXEC);
	error = load->stop_fd >= 0 ? 0 : -errno;
	if (error == 0) {
		open_socket(load);
		error = open_probe(load);
	}
	if (error == 0 && load->probe != NULL) {
		publish(load); /* there from the first question on */
		error = -pthread_create(&load->thread, NULL, load_thread, load);
		load->runs = error == 0;
	}
	if (error != 0) {
		node_load_close(load);
		return error;
	}
	*out = load;
	return 0;
}

void node_load_close(struct node_load *load)
{
	if (load == NULL)
		return;
	if (load->runs) {
		eventfd_write(load->stop_fd, 1);
		pthread_join(load->thread, NULL);
	}
	probe_server_close(load->probe);
	if (load->fd >= 0)
		close(load->fd);
	if (load->stop_fd >= 0)
		close(load->stop_fd);
	pthread_mutex_destroy(&load->cpu_lock);
	free(load);
}

void node_load_drain(struct node_load *load)
{
	atomic_store(&load->draining, true);
}

bool node_load_report(struct node_load *load, struct orca_report *report)
{
	struct load_slot slot = {.epoch = load->epoch};
	struct lease_usage usage;
	struct load_report now;
	lease_table_usage(load->options.leases, &usage);
	report->cpu_utilization = cpu_share(load);
	report->mem_utilization = usage.memory_bytes > 0
					  ? (double)usage.leased_bytes / (double)usage.memory_bytes
					  : 0;
	look(load, &now);
	load_publish(&slot, &now);
	return load_read(&slot, now.stamp_ns, &report->load);
}
