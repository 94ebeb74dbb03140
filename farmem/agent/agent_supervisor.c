/*
 * farmem/agent/agent_supervisor.c: the process that must not fail: no gRPC, no threads, no memory
 * taken after its start. Caller: apps/agent_main.c.
 *
 *     agent.sock listening -> "ready" -> worker forked -+-> END -> nodes stopped, tree removed
 *                                 ^                     |
 *                                 +- after a pause <----+ it died
 *
 * Why a fork and no exec: the child finds everything that is held in its own memory, under the same
 * descriptor numbers; nothing has to be sent, no program file has to be there, and both halves are
 * the same build. gRPC does not survive a fork, so only the child ever starts it.
 *
 * Invariants
 *   1. A runtime's connection and catalog are held from KEEP to DROP: while they are, its
 *      connection does not end and what it said meanwhile is not lost, whatever workers do.
 *   2. All that a worker sent before it died is taken before the next is forked; what the next
 *      finds in its copy is therefore true, and it is told of all that changes later.
 *   3. We never wait for a worker: what its socket does not take now is told later.
 *   4. The tree ends (END) only while its lock is held and no connection waits: whoever connects
 *      later finds nobody and starts another agent.
 *   5. A signal ends us without giving leases back: programs that still run start another agent,
 *      which finds the nodes alive.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent_run.h"
#include "farmem/agent/supervisor.h"

#define LISTEN_BACKLOG 64
#define RESTART_FIRST_NS (10 * NS_PER_MS)
#define RESTART_MAX_NS NS_PER_S
#define RESTART_DOUBLINGS_MAX 7u
#define YOUNG_NS (300 * NS_PER_MS) /* dying younger than this makes the pauses grow */
#define DEATHS_MAX 40u             /* young ones in a row, until a tree without programs ends */
#define DESCRIPTORS_MAX 65536u
#define DESCRIPTORS_MIN 512u /* poll takes no more entries than there may be descriptors */
#define POLL_FIXED 2 /* signals, the worker; then a place for each node */

/* ---- messages ---- */

union control {
	struct cmsghdr head;
	char space[CMSG_SPACE(SUPERVISOR_FDS_MAX * sizeof(int))];
};

int supervisor_send(int socket, const struct supervisor_message *message, const int *fds,
	unsigned fds_count, int flags)
{
	union control control = {0};
	struct iovec iov = {(void *)(uintptr_t)message,
		offsetof(struct supervisor_message, text) + message->length};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fds_count > 0) {
		packet.msg_control = control.space;
		packet.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, fds_count * sizeof(int));
	}
	for (;;) {
		if (sendmsg(socket, &packet, MSG_NOSIGNAL | flags) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == EPIPE ? -ECONNRESET : -errno;
	}
}

static void take_descriptors(struct msghdr *packet, int fds[SUPERVISOR_FDS_MAX])
{
	struct cmsghdr *c = CMSG_FIRSTHDR(packet);
	if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return;
	size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < count && i < SUPERVISOR_FDS_MAX; i++)
		memcpy(&fds[i], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
}

int supervisor_receive(int socket, struct supervisor_message *message, int fds[SUPERVISOR_FDS_MAX])
{
	union control control;
	struct iovec iov = {message, sizeof *message};
	struct msghdr packet = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof control.space};
	ssize_t length;
	for (unsigned i = 0; i < SUPERVISOR_FDS_MAX; i++)
		fds[i] = -1;
	do {
		length = recvmsg(socket, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (length < 0 && errno == EINTR);
	if (length < 0 && errno == EAGAIN)
		return -EAGAIN;
	const ssize_t head = offsetof(struct supervisor_message, text);
	if (length < head)
		return -ECONNRESET;
	take_descriptors(&packet, fds);
	message->length = FM_MIN(message->length, (uint32_t)(length - head));
	return 0;
}

static void close_all(int fds[SUPERVISOR_FDS_MAX])
{
	for (unsigned i = 0; i < SUPERVISOR_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* ---- what a worker orders ---- */

static void order_keep(
	struct supervisor *supervisor, const struct supervisor_message *message, int fds[])
{
	struct supervisor_runtime *runtime = &supervisor->runtimes[message->index];
	if (runtime->held || fds[0] < 0 || fds[1] < 0 || message->length == 0 ||
		message->text[message->length - 1] != '\0') {
		close_all(fds);
		return;
	}
	runtime->connection = fds[0];
	runtime->catalog = fds[1];
	runtime->life = fds[2];
	memcpy(runtime->text, message->text, message->length);
	runtime->held = true;
}

static void order_drop(struct supervisor *supervisor, unsigned index)
{
	struct supervisor_runtime *runtime = &supervisor->runtimes[index];
	if (!runtime->held)
		return;
	close(runtime->connection);
	close(runtime->catalog);
	if (runtime->life >= 0)
		close(runtime->life);
	runtime->held = false;
}

static void order_node(struct supervisor *supervisor, struct supervisor_message *message)
{
	struct supervisor_node *node = &supervisor->nodes[message->index];
	if (message->kind == SUPERVISOR_SIGNAL) {
		spawner_signal(supervisor, message->index, message->value);
		return;
	}
	int error = message->kind == SUPERVISOR_START ? spawner_start(supervisor, message)
						      : spawner_adopt(supervisor, message->index);
	node->started_value = error == 0 ? node->pid : error;
	node->tell_started = true;
}

static void order_run(struct supervisor *supervisor, struct supervisor_message *message, int fds[])
{
	FM_BUILD_ASSERT(AGENT_RUNTIMES_MAX == AGENT_MEMBERS_MAX, "one bound for the index");
	switch (message->index < AGENT_MEMBERS_MAX ? message->kind : 0) {
	case SUPERVISOR_KEEP:
		order_keep(supervisor, message, fds);
		return; /* keeps the descriptors */
	case SUPERVISOR_DROP:
		order_drop(supervisor, message->index);
		break;
	case SUPERVISOR_START:
	case SUPERVISOR_ADOPT:
	case SUPERVISOR_SIGNAL:
		order_node(supervisor, message);
		break;
	case SUPERVISOR_END:
		supervisor->ending = true;
		supervisor->lock = fds[0];
		return;
	default:
		break;
	}
	close_all(fds);
}

/* False when there is none. */
static bool take_order(struct supervisor *supervisor)
{
	static struct supervisor_message message;
	int fds[SUPERVISOR_FDS_MAX];
	if (supervisor->ending || supervisor_receive(supervisor->socket, &message, fds) != 0)
		return false;
	order_run(supervisor, &message, fds);
	return true;
}

/* ---- what a worker is told ---- */

/* Invariant 3. Returns true when nothing is left to tell. */
static bool tell_worker(struct supervisor *supervisor)
{
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
		struct supervisor_node *node = &supervisor->nodes[i];
		struct supervisor_message message = {
			.kind = SUPERVISOR_STARTED, .index = i, .value = node->started_value};
		if (node->tell_started) {
			if (supervisor_send(supervisor->socket, &message, &node->ready_fd,
				    node->ready_fd >= 0, MSG_DONTWAIT) != 0)
				return false;
			node->tell_started = false;
			if (node->ready_fd >= 0)
				close(node->ready_fd);
			node->ready_fd = -1;
		}
		message.kind = SUPERVISOR_ENDED;
		message.value = node->ended_value;
		if (node->tell_ended &&
			supervisor_send(supervisor->socket, &message, NULL, 0, MSG_DONTWAIT) != 0)
			return false;
		node->tell_ended = false;
	}
	return true;
}

/* The next worker sees how things are now. Invariant 2. */
static void forget_tellings(struct supervisor *supervisor)
{
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
		struct supervisor_node *node = &supervisor->nodes[i];
		node->tell_started = node->tell_ended = false;
		if (node->ready_fd >= 0)
			close(node->ready_fd);
		node->ready_fd = -1;
	}
}

/* ---- the worker's life ---- */

FM_NORETURN static void worker_enter(struct supervisor *supervisor, pid_t parent)
{
	sigset_t none;
	/* Nobody may hold the runtimes' connections open when the supervisor is gone. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	prctl(PR_SET_NAME, "farmem-worker");
	close(supervisor->owner_write);
	close(supervisor->signals);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	_exit(worker_run(supervisor));
}

static void worker_plan(struct supervisor *supervisor, uint64_t now_ns)
{
	unsigned deaths = supervisor->worker_deaths;
	uint64_t pause_ns =
		deaths <= 1 ? 0 : RESTART_FIRST_NS << FM_MIN(deaths - 2, RESTART_DOUBLINGS_MAX);
	supervisor->worker_due_ns = now_ns + FM_MIN(pause_ns, RESTART_MAX_NS);
}

static void worker_start(struct supervisor *supervisor)
{
	int sockets[2];
	pid_t self = getpid(), pid = -1;
	supervisor->worker_started_ns = clock_now_ns();
	forget_tellings(supervisor);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0) {
		supervisor->worker_starts++;
		pid = fork();
		if (pid == 0) {
			close(sockets[0]);
			supervisor->socket = sockets[1];
			worker_enter(supervisor, self);
		}
		close(sockets[1]);
		if (pid < 0)
			close(sockets[0]);
	}
	if (pid > 0) {
		supervisor->worker = pid;
		supervisor->socket = sockets[0];
		return;
	}
	log_error("agent: cannot fork a worker error=%d", errno);
	supervisor->worker_deaths++;
	worker_plan(supervisor, supervisor->worker_started_ns);
}

static void worker_ended(struct supervisor *supervisor, int status)
{
	uint64_t now_ns = clock_now_ns();
	while (take_order(supervisor))
		continue;
	close(supervisor->socket);
	supervisor->socket = -1;
	supervisor->worker = 0;
	if (supervisor->ending)
		return;
	bool young = now_ns - supervisor->worker_started_ns < YOUNG_NS;
	supervisor->worker_deaths = young ? supervisor->worker_deaths + 1 : 0;
	worker_plan(supervisor, now_ns);
	log_warn("agent: the worker ended %s=%d restart_in_ms=%llu",
		WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		(unsigned long long)((supervisor->worker_due_ns - now_ns) / NS_PER_MS));
}

static void worker_kill(struct supervisor *supervisor)
{
	if (supervisor->worker == 0)
		return;
	kill(supervisor->worker, SIGKILL);
	while (waitpid(supervisor->worker, NULL, 0) < 0 && errno == EINTR)
		continue;
	supervisor->worker = 0;
}

int supervisor_lock_tree(const char *dir)
{
	char path[MAILBOX_TREE_DIR_MAX + 16];
	snprintf(path, sizeof path, "%s/" MAILBOX_LOCK, dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Workers die as soon as they live, and no program is there for whom to go on trying. */
static bool supervisor_is_useless(struct supervisor *supervisor)
{
	if (supervisor->worker != 0 || supervisor->worker_deaths < DEATHS_MAX)
		return false;
	for (unsigned i = 0; i < AGENT_RUNTIMES_MAX; i++) {
		struct pollfd poller = {
			.fd = supervisor->runtimes[i].connection, .events = POLLRDHUP};
		if (supervisor->runtimes[i].held && poll(&poller, 1, 0) == 0)
			return false;
	}
	supervisor->lock = supervisor_lock_tree(supervisor->dir);
	if (supervisor->lock < 0)
		return false; /* somebody connects: one more try for him */
	log_error("agent: no worker of ours lives: given up");
	return true;
}

/* ---- events ---- */

static void reap(struct supervisor *supervisor)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return;
		if (pid == supervisor->worker)
			worker_ended(supervisor, status);
		else
			(void)spawner_ended(supervisor, pid, status);
	}
}

/* False when a signal ends us. */
static bool take_signals(struct supervisor *supervisor)
{
	struct signalfd_siginfo info;
	bool goes_on = true;
	while (read(supervisor->signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			continue;
		log_warn("agent: ends on signal %u, leases stay", info.ssi_signo);
		goes_on = false;
	}
	reap(supervisor); /* signals of several ends come as one */
	return goes_on;
}

/* True: by a signal, everything stays as it is. False: nobody is left. */
static bool supervisor_loop(struct supervisor *supervisor)
{
	static struct pollfd fds[POLL_FIXED + AGENT_MEMBERS_MAX];
	while (!supervisor->ending && !supervisor_is_useless(supervisor)) {
		uint64_t now_ns = clock_now_ns();
		int timeout_ms = -1;
		if (supervisor->worker == 0 && now_ns >= supervisor->worker_due_ns)
			worker_start(supervisor);
		bool told = supervisor->worker == 0 || tell_worker(supervisor);
		if (supervisor->worker == 0 && supervisor->worker_due_ns > now_ns)
			timeout_ms = (int)((supervisor->worker_due_ns - now_ns) / NS_PER_MS) + 1;
		else if (supervisor->worker == 0)
			timeout_ms = 0;
		fds[0] = (struct pollfd){.fd = supervisor->signals, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = supervisor->worker != 0 ? supervisor->socket : -1,
			.events = (short)(POLLIN | (told ? 0 : POLLOUT))};
		for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
			fds[POLL_FIXED + i] =
				(struct pollfd){.fd = supervisor->nodes[i].pidfd, .events = POLLIN};
		if (poll(fds, FM_ARRAY_COUNT(fds), timeout_ms) < 0) {
			if (errno == EINTR)
				continue;
			log_error("agent: cannot wait error=%d: given up", errno);
			return true;
		}
		for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
			if (fds[POLL_FIXED + i].revents != 0)
				(void)spawner_ended(supervisor, supervisor->nodes[i].pid, -1);
		if ((fds[1].revents & POLLIN) != 0)
			(void)take_order(supervisor);
		if (fds[0].revents != 0 && !take_signals(supervisor))
			return true;
	}
	return false;
}

/* ---- start and end ---- */

static int open_signals(struct supervisor *supervisor)
{
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	supervisor->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return supervisor->signals >= 0 ? 0 : -errno;
}

/* A socket left by an agent that was killed is replaced, a living agent's is not. */
static int open_listener(struct supervisor *supervisor)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/" MAILBOX_SOCKET, supervisor->dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN) {
		close(fd);
		return -EADDRINUSE;
	}
	unlink(address.sun_path);
	supervisor->listener = fd;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		listen(fd, LISTEN_BACKLOG) == 0)
		return 0;
	int error = -errno;
	close(fd);
	return error;
}

static int open_owner(struct supervisor *supervisor)
{
	int owner[2];
	if (pipe2(owner, O_CLOEXEC) != 0)
		return -errno;
	supervisor->owner_write = owner[1];
	supervisor->owner_read = fcntl(owner[0], F_DUPFD_CLOEXEC, 10);
	close(owner[0]);
	return supervisor->owner_read >= 0 ? 0 : -errno;
}

/* Two descriptors for each runtime, and gRPC's. The program's own limit is not ours: root raises
 * it, others use all of it. 0 or -EMFILE: gRPC would stand still without a word. */
static int raise_descriptors(void)
{
	struct rlimit limit, wish = {DESCRIPTORS_MAX, DESCRIPTORS_MAX};
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= DESCRIPTORS_MAX)
		return 0;
	wish.rlim_max = FM_MAX(limit.rlim_max, (rlim_t)DESCRIPTORS_MAX);
	if (setrlimit(RLIMIT_NOFILE, &wish) == 0)
		return 0;
	limit.rlim_cur = FM_MIN(limit.rlim_max, (rlim_t)DESCRIPTORS_MAX);
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur >= DESCRIPTORS_MIN)
		return 0;
	log_error("agent: too few descriptors limit=%llu needed=%u (ulimit -Hn)",
		(unsigned long long)limit.rlim_cur, DESCRIPTORS_MIN);
	return -EMFILE;
}

static int supervisor_open(struct supervisor *supervisor, const struct agent_run_options *options)
{
	supervisor->lock = -1;
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
		supervisor->nodes[i].pidfd = supervisor->nodes[i].ready_fd = -1;
	if (snprintf(supervisor->dir, sizeof supervisor->dir, "%s", options->dir) >=
			(int)sizeof supervisor->dir ||
		snprintf(supervisor->self, sizeof supervisor->self, "%s", options->self) >=
			(int)sizeof supervisor->self)
		return -ENAMETOOLONG;
	supervisor->deaths_left = mmap(NULL, sizeof *supervisor->deaths_left,
		PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (supervisor->deaths_left == MAP_FAILED)
		return -ENOMEM;
	*supervisor->deaths_left = 1;
	int error = raise_descriptors();
	if (error == 0)
		error = open_signals(supervisor);
	if (error == 0)
		error = open_owner(supervisor);
	if (error == 0)
		error = open_listener(supervisor);
	return error == 0 ? table_open(supervisor->dir, &supervisor->table) : error;
}

static void remove_tree(const struct supervisor *supervisor)
{
	static const char *const files[] = {
		MAILBOX_SOCKET, AGENT_TABLE_NAME, "agent.log", MAILBOX_LOCK};
	char path[sizeof supervisor->dir + 16];
	for (unsigned i = 0; i < FM_ARRAY_COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s", supervisor->dir, files[i]);
		unlink(path);
	}
	rmdir(supervisor->dir);
}

/* Invariant 4: a worker that said END held the lock, and handed it over. */
static void supervisor_end(struct supervisor *supervisor)
{
	close(supervisor->listener);
	spawner_end(supervisor);
	remove_tree(supervisor);
	if (supervisor->lock >= 0)
		close(supervisor->lock);
}

int agent_run(const struct agent_run_options *options)
{
	static struct supervisor supervisor;
	int error = supervisor_open(&supervisor, options);
	if (error != 0)
		return error;
	log_info("agent: serving dir=%s", supervisor.dir);
	options->ready(options->context);
	bool stays = supervisor_loop(&supervisor);
	worker_kill(&supervisor);
	if (!stays)
		supervisor_end(&supervisor);
	log_info("agent: end");
	return 0;
}
