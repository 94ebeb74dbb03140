/*
 * memnode/main.c: farmem-memnode, the daemon that lends a machine's RAM.
 *
 *     options -> directory -> leases -> data plane -> load -> control plane -> ready line -> loop
 *     -> back
 *
 * SIGTERM: the node drains. It lends nothing more, says so to whoever asks (Load.draining), serves
 * what it has lent until all of it was given back or --drain-grace is over, and ends. SIGINT,
 * SIGHUP or a second SIGTERM: it ends at once.
 *
 * Exit status: 0 after a signal or the owner's end; 1 operating error; 2 the user's mistake.
 *
 * Invariants
 *   1. The ready line is written only when both planes accept connections.
 *   2. One daemon per directory: DIR/lock is held (flock) as long as our sockets are there.
 *   3. No fork after gRPC has started (rpc/ctl_library.h).
 */
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "memnode/ctl_service.h"
#include "memnode/daemon_options.h"
#include "memnode/data_server.h"
#include "memnode/data_verbs.h"
#include "memnode/lease.h"
#include "memnode/node_load.h"
#include "rpc/ctl_server.h"

#define RESERVES_MAX 6
/* Handlers that may be long: reserving, offload. The rest is for keepalives and their like. */
#define CTL_THREADS (RESERVES_MAX + OFFLOAD_BLOCKED_MAX + 4)
#define CTL_REQUEST_BYTES_MAX (1u << 20) /* 4096 spansets from 16 sources */
#define TICK_NS NS_PER_S
#define DRAIN_TICK_NS (100 * NS_PER_MS)
#define SLOW_REPLY_NS_MAX NS_PER_S
#define OWNER_LINGER_NS (10 * NS_PER_S)
#define EXIT_USER 2

struct daemon {
	struct daemon_options options;
	struct option_error error; /* of whatever failed: one line */
	char ctl_path[DAEMON_DIR_BYTES + 16], data_path[DAEMON_DIR_BYTES + 16];
	char lock_path[DAEMON_DIR_BYTES + 16];
	int lock_fd, signal_fd, owner_fd;
	struct lease_table *leases;
	struct data_server *data;
	struct data_verbs *verbs; /* NULL: no RDMA */
	struct offload *offload;
	struct node_load *load;
	struct ctl_server *ctl;
	struct ctl_service service;
	uint64_t slow_reply_ns;
	int ctl_port;
	uint16_t data_port;
	uint64_t owner_idle_since_ns; /* 0: owner there, or clients connected */
	uint64_t drain_until_ns;      /* 0: not draining */
};

static int failed(struct daemon *daemon, int error, const char *format, ...) FM_PRINTF(3, 4);

static int failed(struct daemon *daemon, int error, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(daemon->error.text, sizeof daemon->error.text, format, arguments);
	va_end(arguments);
	return error;
}

static int daemon_open_log(struct daemon *daemon)
{
	struct daemon_options *options = &daemon->options;
	log_set_program("farmem-memnode");
	log_set_level((enum log_level)options->log_level);
	if (options->log[0] == '\0')
		return 0;
	int error = log_open(options->log);
	return error == 0 ? 0
			  : failed(daemon, error, "--log %s: %s", options->log, strerror(-error));
}

/* SIGTERM and SIGINT become readable; threads made later inherit the blocked mask. */
static int daemon_open_signals(struct daemon *daemon)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	daemon->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return daemon->signal_fd >= 0 ? 0 : failed(daemon, -errno, "signalfd: %s", strerror(errno));
}

/* The inherited ends are ours alone: nothing we start may keep them. */
static int daemon_check_inherited(struct daemon *daemon, const char *flag, uint64_t fd)
{
	if (fd == DAEMON_NO_FD)
		return -1;
	if (fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0)
		return failed(daemon, -EBADF, "--%s %d: no such descriptor", flag, (int)fd);
	return (int)fd;
}

static int daemon_open_dir(struct daemon *daemon)
{
	const char *dir = daemon->options.dir;
	if (dir[0] == '\0')
		return 0;
	snprintf(daemon->ctl_path, sizeof daemon->ctl_path, "%s/ctl.sock", dir);
	snprintf(daemon->data_path, sizeof daemon->data_path, "%s/data.sock", dir);
	snprintf(daemon->lock_path, sizeof daemon->lock_path, "%s/lock", dir);
	/* By root: programs that were root when they began reach the data socket, nothing else. */
	if (mkdir(dir, 0700) == 0)
		(void)chmod(dir, geteuid() == 0 ? 0711 : 0700);
	else if (errno != EEXIST)
		return failed(daemon, -errno, "--dir %s: %s", dir, strerror(errno));
	daemon->lock_fd = open(daemon->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (daemon->lock_fd < 0)
		return failed(daemon, -errno, "--dir %s: %s", dir, strerror(errno));
	if (flock(daemon->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		close(daemon->lock_fd);
		daemon->lock_fd = -1; /* so that nothing of the other's is removed */
		return failed(daemon, -EBUSY,
			"--dir %s: another farmem-memnode serves it: give another directory", dir);
	}
	/* Left behind by a daemon that was killed: we hold its lock. */
	unlink(daemon->ctl_path);
	unlink(daemon->data_path);
	return 0;
}

static void daemon_close_dir(struct daemon *daemon)
{
	if (daemon->lock_fd < 0)
		return;
	unlink(daemon->ctl_path);
	unlink(daemon->data_path);
	close(daemon->lock_fd);
}

static int daemon_open_leases(struct daemon *daemon)
{
	const struct daemon_options *options = &daemon->options;
	struct lease_table_options table = {
		.memory_bytes = options->memory_bytes,
		.client_bytes = options->client_quota_bytes,
		.keepalive_ns = options->keepalive_ns,
		.orphan_keep_ns = options->orphan_keep_ns,
		.huge_pages = options->huge_pages == HUGE_PAGES_YES,
	};
	int error = lease_table_open(&table, &daemon->leases);
	return error == 0 ? 0 : failed(daemon, error, "lease table: %s", strerror(-error));
}

static int daemon_open_data(struct daemon *daemon)
{
	const struct daemon_options *options = &daemon->options;
	struct data_server_options data = {
		.leases = daemon->leases,
		.unix_path = daemon->data_path,
		.tcp_address = options->data_listen,
		.threads = (unsigned)options->threads,
		.spin_ns = options->spin_ns,
		.slow_reply_ns = daemon->slow_reply_ns,
	};
	int error = data_server_open(&data, &daemon->data);
	if (error != 0)
		return failed(daemon, error, "data plane on %s%s%s: %s", options->data_listen,
			options->data_listen[0] != '\0' && options->dir[0] != '\0' ? " and " : "",
			daemon->data_path, strerror(-error));
	daemon->data_port = data_server_port(daemon->data);
	return 0;
}

static int daemon_open_verbs(struct daemon *daemon)
{
	const char *address = daemon->options.verbs;
	const struct data_verbs_options options = {.address = address, .leases = daemon->leases};
	if (address[0] == '\0')
		return 0;
	int error = data_verbs_open(&options, &daemon->verbs);
	if (error == -ENOSYS)
		return failed(daemon, error,
			"--verbs %s: no RDMA in this kernel: modprobe rdma_ucm, and rdma_rxe for a "
			"machine without an RDMA card (see: farmem doctor)",
			address);
	if (error == -ENODEV || error == -EADDRNOTAVAIL)
		return failed(daemon, error,
			"--verbs %s: no RDMA device has that address (see: farmem doctor; for a "
			"card without RDMA: rdma link add rxe0 type rxe netdev CARD)",
			address);
	return error == 0 ? 0 : failed(daemon, error, "--verbs %s: %s", address, strerror(-error));
}

/* gRPC only says that it could not listen; a bind of our own says why. 0 or -errno. */
static int probe_bind(const char *address)
{
	char host[DAEMON_ADDRESS_BYTES];
	uint16_t port;
	char service[8];
	struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
	if (daemon_address_split(address, host, &port) != 0)
		return -EINVAL;
	snprintf(service, sizeof service, "%u", port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return -EADDRNOTAVAIL;
	int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = fd < 0 ? -errno : 0;
	int on = 1;
	if (error == 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (error == 0 && (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0))
		error = -errno;
	if (fd >= 0)
		close(fd);
	freeaddrinfo(found);
	return error;
}

static int daemon_listen(struct daemon *daemon)
{
	const char *address = daemon->options.listen;
	if (address[0] != '\0') {
		int error = probe_bind(address);
		if (error == 0)
			error = ctl_server_listen(daemon->ctl, address, &daemon->ctl_port);
		if (error != 0)
			return failed(daemon, error, "--listen %s: %s", address, strerror(-error));
	}
	if (daemon->options.dir[0] != '\0') {
		char path[sizeof daemon->ctl_path + 8];
		snprintf(path, sizeof path, "unix:%s", daemon->ctl_path);
		if (ctl_server_listen(daemon->ctl, path, NULL) != 0)
			return failed(daemon, -EADDRINUSE, "--dir %s: cannot make %s",
				daemon->options.dir, daemon->ctl_path);
	}
	return 0;
}

static bool daemon_is_serving(void *context)
{
	struct data_load load;
	data_server_load(context, &load);
	return load.in_flight != 0;
}

static int daemon_open_offload(struct daemon *daemon)
{
	struct offload_options options = {.leases = daemon->leases,
		.nice = (int)daemon->options.offload_nice,
		.merge_way = {daemon_is_serving, daemon->data}};
	int error = offload_open(&options, &daemon->offload);
	return error == 0 ? 0 : failed(daemon, error, "offload threads: %s", strerror(-error));
}

static int daemon_open_load(struct daemon *daemon)
{
	const struct daemon_options *options = &daemon->options;
	struct node_load_options load = {
		.data = daemon->data,
		.leases = daemon->leases,
		.address = options->data_listen,
		.port = daemon->data_port,
		.mode = (enum probe_mode)options->probe,
		.allow = options->probe_allow[0] != '\0' ? options->probe_allow : NULL,
	};
	int error = node_load_open(&load, &daemon->load);
	return error == 0 ? 0
			  : failed(daemon, error, "--probe, --probe-allow '%s': %s",
				    options->probe_allow, strerror(-error));
}

/* The control plane's answers carry the load. */
static bool daemon_report_load(void *context, struct orca_report *report)
{
	struct ctl_service *service = context;
	struct daemon *daemon = FM_CONTAINER_OF(service, struct daemon, service);
	return node_load_report(daemon->load, report);
}

static int daemon_open_ctl(struct daemon *daemon)
{
	struct ctl_service_options service = {
		.table = daemon->leases,
		.offload = daemon->offload,
		.name = daemon->options.name,
		.host = daemon->options.host_id,
		.data_path = daemon->data_path,
		.data_port = daemon->data_port,
		.verbs = daemon->verbs,
		.reserves_max = RESERVES_MAX,
	};
	struct ctl_server_options options = {.context = &daemon->service,
		.load = daemon_report_load,
		.threads = CTL_THREADS,
		.message_bytes_max = CTL_REQUEST_BYTES_MAX};
	options.methods = ctl_service_methods(&options.methods_count);
	ctl_service_open(&daemon->service, &service);
	int error = ctl_server_open(&options, &daemon->ctl);
	if (error != 0)
		return failed(daemon, error, "control plane: %s", strerror(-error));
	error = daemon_listen(daemon);
	if (error != 0)
		return error;
	error = ctl_server_start(daemon->ctl);
	return error == 0 ? 0 : failed(daemon, error, "control plane: %s", strerror(-error));
}

/* "HOST:PORT" as it was given, with the port that it became; "-" when there is none. */
static void ready_address(const char *given, int port, char text[DAEMON_ADDRESS_BYTES + 8])
{
	if (given[0] == '\0')
		snprintf(text, DAEMON_ADDRESS_BYTES, "-");
	else
		snprintf(text, DAEMON_ADDRESS_BYTES + 8, "%.*s:%d",
			(int)(strrchr(given, ':') - given), given, port);
}

/* One line, for people on stderr and for whoever gave us --ready-fd. */
static void daemon_say_ready(struct daemon *daemon)
{
	const struct daemon_options *options = &daemon->options;
	char line[1024], ctl[DAEMON_ADDRESS_BYTES + 8], data[DAEMON_ADDRESS_BYTES + 8];
	ready_address(options->listen, daemon->ctl_port, ctl);
	ready_address(options->data_listen, daemon->data_port, data);
	int length = snprintf(line, sizeof line,
		"farmem-memnode: ready ctl=%s data=%s verbs=%s dir=%s name=%s memory_bytes=%llu "
		"incarnation=%016llx\n",
		ctl, data, daemon->verbs != NULL ? data_verbs_address(daemon->verbs) : "-",
		options->dir[0] != '\0' ? options->dir : "-", options->name,
		(unsigned long long)options->memory_bytes,
		(unsigned long long)lease_table_incarnation(daemon->leases));
	(void)!write(STDERR_FILENO, line, (size_t)length);
	if (options->ready_fd != DAEMON_NO_FD) {
		(void)!write((int)options->ready_fd, line, (size_t)length);
		close((int)options->ready_fd);
	}
}

static int daemon_open(struct daemon *daemon)
{
	int error = daemon_open_log(daemon);
	if (error == 0)
		error = daemon_open_signals(daemon);
	if (error == 0) {
		daemon->owner_fd =
			daemon_check_inherited(daemon, "owner-fd", daemon->options.owner_fd);
		int ready = daemon_check_inherited(daemon, "ready-fd", daemon->options.ready_fd);
		error = daemon->error.text[0] != '\0' ? FM_MIN(daemon->owner_fd, ready) : 0;
	}
	if (error == 0)
		error = daemon_open_dir(daemon);
	if (error == 0)
		error = daemon_open_leases(daemon);
	if (error == 0)
		error = daemon_open_data(daemon);
	if (error == 0)
		error = daemon_open_verbs(daemon);
	if (error == 0)
		error = daemon_open_load(daemon);
	if (error == 0)
		error = daemon_open_offload(daemon);
	if (error == 0)
		error = daemon_open_ctl(daemon);
	return error;
}

static void daemon_close(struct daemon *daemon)
{
	ctl_server_close(daemon->ctl);
	offload_close(daemon->offload);
	node_load_close(daemon->load);
	data_verbs_close(daemon->verbs);
	data_server_close(daemon->data);
	if (daemon->leases != NULL)
		lease_table_close(daemon->leases);
	daemon_close_dir(daemon);
	if (daemon->signal_fd >= 0)
		close(daemon->signal_fd);
	if (daemon->owner_fd >= 0)
		close(daemon->owner_fd);
}

/* True when the owner is gone and nobody has been connected, or kept a lease, for a while. */
static bool daemon_is_abandoned(struct daemon *daemon, bool owner_gone, uint64_t now_ns)
{
	struct lease_usage usage = {0};
	if (owner_gone)
		lease_table_usage(daemon->leases, &usage);
	/* A lease that is kept alive has an agent; one that is not becomes an orphan in time. */
	if (!owner_gone || data_server_connections(daemon->data) != 0 || usage.leased_count != 0) {
		daemon->owner_idle_since_ns = 0;
		return false;
	}
	if (daemon->owner_idle_since_ns == 0)
		daemon->owner_idle_since_ns = now_ns;
	return now_ns - daemon->owner_idle_since_ns >= OWNER_LINGER_NS;
}

static bool owner_has_closed(const struct pollfd *owner)
{
	char nothing;
	return (owner->revents & (POLLHUP | POLLERR | POLLNVAL)) != 0 ||
	       ((owner->revents & POLLIN) != 0 && read(owner->fd, &nothing, 1) <= 0);
}

/* A signal has come. True: end now. */
static bool daemon_take_signal(struct daemon *daemon, uint64_t now_ns)
{
	struct signalfd_siginfo info;
	const uint64_t grace_ns = daemon->options.drain_grace_ns;
	if (read(daemon->signal_fd, &info, sizeof info) != (ssize_t)sizeof info)
		return false;
	if (info.ssi_signo != SIGTERM || daemon->drain_until_ns != 0 || grace_ns == 0)
		return true;
	ctl_service_drain(&daemon->service);
	node_load_drain(daemon->load);
	if (ctl_service_is_empty(&daemon->service))
		return true;
	log_info("memnode: drain grace_ns=%llu", (unsigned long long)grace_ns);
	daemon->drain_until_ns = now_ns + grace_ns;
	return false;
}

/* Everything was given back, or the grace is over. Looked at once a tick: whoever gave back the
 * last lease has his answer by then. */
static bool daemon_has_drained(struct daemon *daemon, uint64_t now_ns)
{
	if (daemon->drain_until_ns == 0)
		return false;
	return now_ns >= daemon->drain_until_ns || ctl_service_is_empty(&daemon->service);
}

/* Serves until a signal or until nobody wants us any more. Returns why. */
static const char *daemon_loop(struct daemon *daemon)
{
	bool owner_gone = false;
	uint64_t tick_ns = clock_now_ns();
	for (;;) {
		struct pollfd fds[2] = {
			{.fd = daemon->signal_fd, .events = POLLIN},
			{.fd = owner_gone ? -1 : daemon->owner_fd, .events = POLLIN},
		};
		uint64_t now_ns = clock_now_ns();
		if (now_ns >= tick_ns) {
			lease_table_tick(daemon->leases, now_ns);
			offload_tick(daemon->offload, now_ns);
			if (daemon_has_drained(daemon, now_ns))
				return "drained";
			tick_ns = now_ns + (daemon->drain_until_ns != 0 ? DRAIN_TICK_NS : TICK_NS);
		}
		if (daemon_is_abandoned(daemon, owner_gone, now_ns))
			return "owner-gone";
		poll(fds, 2, (int)((tick_ns - now_ns) / NS_PER_MS) + 1);
		if (fds[0].revents != 0 && daemon_take_signal(daemon, now_ns))
			return "signal";
		owner_gone = owner_gone || owner_has_closed(&fds[1]);
	}
}

static void print_help(void)
{
	static const char head[] =
		"Usage: farmem-memnode [--listen HOST:PORT] [--memory SIZE] [flags]\n"
		"Lends this machine's memory to farmem clients.\n\n";
	(void)!write(STDOUT_FILENO, head, sizeof head - 1);
	options_print_help(daemon_specs, daemon_specs_count, STDOUT_FILENO);
}

/* --help and --version, wherever they stand. */
static bool asked_for_words(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help();
			return true;
		}
		if (strcmp(argv[i], "--version") == 0) {
			static const char version[] = "farmem-memnode " FM_VERSION "\n";
			(void)!write(STDOUT_FILENO, version, sizeof version - 1);
			return true;
		}
	}
	return false;
}

/* What tests ask for by the environment. */
static int daemon_read_testing(struct daemon *daemon)
{
	const char *faults = getenv("FARMEM_FAULTS"), *slow = getenv("FARMEM_SLOW_READS");
	if (faults != NULL && fault_arm_from_text(faults) != 0)
		return failed(daemon, -EINVAL, "FARMEM_FAULTS: name=N");
	if (slow != NULL && (parse_duration(slow, &daemon->slow_reply_ns) != 0 ||
				    daemon->slow_reply_ns > SLOW_REPLY_NS_MAX))
		return failed(daemon, -EINVAL, "FARMEM_SLOW_READS %s: a time of at most 1s", slow);
	return 0;
}

int main(int argc, char **argv)
{
	static struct daemon daemon = {.lock_fd = -1, .signal_fd = -1, .owner_fd = -1};
	if (asked_for_words(argc, argv))
		return 0;
	umask(077);
	int error = daemon_options_read(&daemon.options, argc, argv, &daemon.error);
	if (error == 0)
		error = daemon_read_testing(&daemon);
	if (error != 0) {
		dprintf(STDERR_FILENO, "farmem-memnode: %s\n", daemon.error.text);
		return EXIT_USER;
	}
	error = daemon_open(&daemon);
	if (error != 0) {
		dprintf(STDERR_FILENO, "farmem-memnode: %s\n", daemon.error.text);
		daemon_close(&daemon);
		return 1;
	}
	daemon_say_ready(&daemon);
	const char *reason = daemon_loop(&daemon);
	log_info("memnode: exit reason=%s", reason);
	ctl_service_stop(&daemon.service);
	daemon_close(&daemon);
	return 0;
}
