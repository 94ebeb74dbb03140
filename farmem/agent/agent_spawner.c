/*
 * farmem/agent/agent_spawner.c: the supervisor's hands: processes of embedded nodes, and their
 * directories. Caller: agent_supervisor.c, which has no gRPC (it does not survive a fork).
 *
 * A node is our child, or was left behind by an agent that was killed: then it is found by its
 * directory (node-INDEX, whose lock it holds), its pid by asking the kernel who listens on its
 * data.sock, and its end by a pidfd.
 *
 * Invariants
 *   1. Every node has the owner pipe, whose other end only the supervisor holds: a node whose
 *      supervisor was killed ends by itself once nobody needs what it holds (--owner-fd).
 *   2. One process per index at most; `pid` is not 0 exactly while it is there and not reaped.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/supervisor.h"

#define SPAWNER_ARGUMENTS_MAX 40
#define SPAWNER_STOP_NS (3 * NS_PER_S) /* from SIGINT to SIGKILL, and again to giving up */
#define SPAWNER_POLL_MS 10             /* children's ends are looked for so often at the end */
#define NODE_OWNER_FD 3
#define NODE_READY_FD 4

/* ---- starting ---- */

/* The node's descriptors: 0 and 1 nothing, 2 the log, 3 the owner pipe, 4 the ready pipe. */
static int start_process(struct supervisor *supervisor, char **argv, const char *log, int ready_fd)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	pid_t pid;
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	sigemptyset(&none);
	sigfillset(&defaults);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_APPEND | O_CREAT, 0600);
	/* Ours are above 10, so neither dup2 overwrites the other's source. */
	posix_spawn_file_actions_adddup2(&actions, supervisor->owner_read, NODE_OWNER_FD);
	posix_spawn_file_actions_adddup2(&actions, ready_fd, NODE_READY_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, NODE_READY_FD + 1);
	int error = posix_spawn(&pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return error != 0 ? -error : pid;
}

/* text -> argv; the last string is the log's path. Returns how many arguments, 0 if malformed. */
static unsigned split_text(struct supervisor_message *message, char **argv, const char **log)
{
	unsigned count = 0;
	if (message->length == 0 || message->length > SUPERVISOR_TEXT_MAX ||
		message->text[message->length - 1] != '\0')
		return 0;
	for (uint32_t at = 0; at < message->length && count < SPAWNER_ARGUMENTS_MAX;
		at += (uint32_t)strlen(message->text + at) + 1)
		argv[count++] = message->text + at;
	if (count < 2)
		return 0;
	*log = argv[--count];
	argv[count] = NULL;
	return count;
}

int spawner_start(struct supervisor *supervisor, struct supervisor_message *message)
{
	char *argv[SPAWNER_ARGUMENTS_MAX + 5];
	char owner_flag[] = "--owner-fd", owner[] = "3", ready_flag[] = "--ready-fd", ready[] = "4";
	const char *log;
	int fds[2];
	struct supervisor_node *node = &supervisor->nodes[message->index];
	unsigned count = split_text(message, argv, &log);
	if (count == 0 || node->pid != 0)
		return -EINVAL;
	argv[count++] = owner_flag;
	argv[count++] = owner;
	argv[count++] = ready_flag;
	argv[count++] = ready;
	argv[count] = NULL;
	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	int high = fcntl(fds[1], F_DUPFD_CLOEXEC, 10);
	close(fds[1]);
	int pid = high < 0 ? -errno : start_process(supervisor, argv, log, high);
	if (high >= 0)
		close(high);
	if (pid < 0) {
		close(fds[0]);
		return pid;
	}
	node->pid = pid;
	node->ready_fd = fds[0];
	return 0;
}

/* ---- adopting ---- */

bool spawner_dir_is_taken(const char *tree_dir, const char *name)
{
	char lock[MAILBOX_TREE_DIR_MAX + 300];
	snprintf(lock, sizeof lock, "%s/%s/lock", tree_dir, name);
	int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool taken = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;
	if (fd >= 0)
		close(fd);
	return taken;
}

/* A pidfd of whoever listens there; its pid in *pid. */
static int pidfd_of_listener(const struct sockaddr_un *address, pid_t *pid)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	int pidfd, error;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 ||
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0)
		goto close_socket;
	pidfd = pidfd_open(peer.pid, 0);
	if (pidfd < 0)
		goto close_socket;
	/* Still connected: the pid had not been given to somebody else meanwhile. */
	struct pollfd poller = {.fd = fd, .events = POLLRDHUP};
	errno = ECONNRESET;
	if (poll(&poller, 1, 0) != 0)
		goto close_pidfd;
	close(fd);
	*pid = peer.pid;
	return pidfd;
close_pidfd:
	close(pidfd);
close_socket:
	error = errno != 0 ? -errno : -ESRCH;
	close(fd);
	return error;
}

int spawner_adopt(struct supervisor *supervisor, unsigned index)
{
	struct supervisor_node *node = &supervisor->nodes[index];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (node->pid != 0)
		return -EINVAL;
	int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/node-%u/data.sock",
		supervisor->dir, index);
	if (length >= (int)sizeof address.sun_path)
		return -ENAMETOOLONG;
	int pidfd = pidfd_of_listener(&address, &node->pid);
	if (pidfd < 0) {
		node->pid = 0;
		return pidfd;
	}
	node->pidfd = pidfd;
	node->ready_fd = -1;
	supervisor->adopted = true;
	return 0;
}

/* ---- ending ---- */

void spawner_signal(struct supervisor *supervisor, unsigned index, int number)
{
	const struct supervisor_node *node = &supervisor->nodes[index];
	if (node->pidfd >= 0)
		(void)pidfd_send_signal(node->pidfd, number, NULL, 0);
	else if (node->pid > 0)
		(void)kill(node->pid, number);
}

bool spawner_ended(struct supervisor *supervisor, pid_t pid, int status)
{
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
		struct supervisor_node *node = &supervisor->nodes[i];
		if (node->pid != pid)
			continue;
		node->pid = 0;
		if (node->pidfd >= 0)
			close(node->pidfd);
		node->pidfd = -1;
		node->ended_value = status;
		node->tell_ended = true;
		return true;
	}
	return false;
}

/* Takes the ends that have come. Returns how many nodes are left. */
static unsigned collect_ends(struct supervisor *supervisor)
{
	unsigned left = 0;
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
		struct supervisor_node *node = &supervisor->nodes[i];
		struct pollfd poller = {.fd = node->pidfd, .events = POLLIN};
		int status = -1;
		if (node->pid == 0)
			continue;
		if (node->pidfd >= 0 ? poll(&poller, 1, 0) > 0
				     : waitpid(node->pid, &status, WNOHANG) == node->pid)
			(void)spawner_ended(supervisor, node->pid, status);
		left += node->pid != 0;
	}
	return left;
}

static void stop_all(struct supervisor *supervisor, int number)
{
	uint64_t until_ns = clock_now_ns() + SPAWNER_STOP_NS;
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
		spawner_signal(supervisor, i, number);
	while (collect_ends(supervisor) > 0 && clock_now_ns() < until_ns)
		poll(NULL, 0, SPAWNER_POLL_MS);
}

/* Living nodes that are not ours keep theirs. */
static void remove_dirs(const char *tree_dir)
{
	static const char *const files[] = {"ctl.sock", "data.sock", "lock"};
	DIR *tree = opendir(tree_dir);
	const struct dirent *entry;
	while (tree != NULL && (entry = readdir(tree)) != NULL) {
		char path[MAILBOX_TREE_DIR_MAX + 300];
		if (strncmp(entry->d_name, "node-", 5) != 0 ||
			spawner_dir_is_taken(tree_dir, entry->d_name))
			continue;
		for (unsigned f = 0; f < FM_ARRAY_COUNT(files); f++) {
			snprintf(path, sizeof path, "%s/%s/%s", tree_dir, entry->d_name, files[f]);
			unlink(path);
		}
		snprintf(path, sizeof path, "%s/%s", tree_dir, entry->d_name);
		rmdir(path);
	}
	if (tree != NULL)
		closedir(tree);
}

void spawner_end(struct supervisor *supervisor)
{
	/* Not SIGTERM: that asks a node to be emptied first. */
	stop_all(supervisor, SIGINT);
	stop_all(supervisor, SIGKILL);
	remove_dirs(supervisor->dir);
}
