/*
 * farmem/agent/agent_spawner.c: a small process that starts and reaps embedded nodes for the agent.
 *
 * It exists because gRPC does not survive a fork: it is forked before gRPC starts, and does all
 * starting from then on. Agent and spawner talk over a SOCK_SEQPACKET pair.
 *
 *   agent -> spawner   START (program, arguments), SIGNAL
 *   spawner -> agent   STARTED (with the read end of the node's ready pipe), ENDED
 *
 * Invariants
 *   1. When the agent is gone the spawner ends and leaves the nodes alone: they hold somebody's
 *      memory, and end by themselves once their clients have (--owner-fd).
 *   2. Every node has the owner pipe, whose other end only the agent holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "farmem/agent/agent.h"

#define SPAWNER_ARGUMENTS_MAX 40
#define NODE_OWNER_FD 3
#define NODE_READY_FD 4

struct spawner {
	int socket, owner_fd, signal_fd;
	pid_t pids[AGENT_MEMBERS_MAX]; /* 0: not running */
};

int spawner_send(int socket, const struct spawner_message *message, int fd_or_minus_1)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)message,
		offsetof(struct spawner_message, text) + message->length};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd_or_minus_1 >= 0) {
		packet.msg_control = control.space;
		packet.msg_controllen = sizeof control.space;
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &fd_or_minus_1, sizeof(int));
	}
	for (;;) {
		if (sendmsg(socket, &packet, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

int spawner_receive(int socket, struct spawner_message *message, int *fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {message, sizeof *message};
	struct msghdr packet = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof control.space};
	ssize_t length;
	*fd = -1;
	do {
		length = recvmsg(socket, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (length < 0 && errno == EINTR);
	if (length < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (length < (ssize_t)offsetof(struct spawner_message, text))
		return -ECONNRESET;
	struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
	if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), sizeof *fd);
	return 0;
}

/* ---- the spawner's own side ---- */

/* The node's descriptors: 0 and 1 nothing, 2 the log, 3 the owner pipe, 4 the ready pipe. */
static int start_process(struct spawner *spawner, char **argv, const char *log, int ready_fd)
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
	posix_spawn_file_actions_adddup2(&actions, spawner->owner_fd, NODE_OWNER_FD);
	posix_spawn_file_actions_adddup2(&actions, ready_fd, NODE_READY_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, NODE_READY_FD + 1);
	int error = posix_spawn(&pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return error != 0 ? -error : pid;
}

/* text -> argv; the last string is the log's path. Returns how many arguments, 0 if malformed. */
static unsigned split_text(struct spawner_message *message, char **argv, const char **log)
{
	unsigned count = 0;
	if (message->length == 0 || message->length > SPAWNER_TEXT_MAX ||
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

static int start_node(struct spawner *spawner, struct spawner_message *message, int *ready_read)
{
	char *argv[SPAWNER_ARGUMENTS_MAX + 5];
	char owner_flag[] = "--owner-fd", owner[] = "3", ready_flag[] = "--ready-fd", ready[] = "4";
	const char *log;
	int fds[2];
	unsigned count = split_text(message, argv, &log);
	if (count == 0 || message->index >= AGENT_MEMBERS_MAX || spawner->pids[message->index] != 0)
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
	int pid = high < 0 ? -errno : start_process(spawner, argv, log, high);
	if (high >= 0)
		close(high);
	if (pid < 0) {
		close(fds[0]);
		return pid;
	}
	spawner->pids[message->index] = pid;
	*ready_read = fds[0];
	return pid;
}

/* False when the agent is gone. */
static bool take_order(struct spawner *spawner)
{
	static struct spawner_message message;
	int fd, ready_read = -1;
	int error = spawner_receive(spawner->socket, &message, &fd);
	if (fd >= 0)
		close(fd);
	if (error == -EAGAIN)
		return true;
	if (error != 0)
		return false;
	if (message.kind == SPAWNER_START) {
		struct spawner_message answer = {.kind = SPAWNER_STARTED, .index = message.index};
		answer.value = start_node(spawner, &message, &ready_read);
		error = spawner_send(spawner->socket, &answer, ready_read);
		if (ready_read >= 0)
			close(ready_read);
	} else if (message.kind == SPAWNER_SIGNAL && message.index < AGENT_MEMBERS_MAX &&
		   spawner->pids[message.index] > 0) {
		kill(spawner->pids[message.index], message.value);
	}
	return error == 0;
}

static void reap(struct spawner *spawner)
{
	struct signalfd_siginfo info;
	(void)!read(spawner->signal_fd, &info, sizeof info);
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return;
		for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
			if (spawner->pids[i] != pid)
				continue;
			struct spawner_message message = {
				.kind = SPAWNER_ENDED, .index = i, .value = status};
			spawner->pids[i] = 0;
			(void)!spawner_send(spawner->socket, &message, -1);
		}
	}
}

FM_NORETURN static void spawner_run(struct spawner *spawner)
{
	sigset_t set;
	prctl(PR_SET_NAME, "farmem-spawner");
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	spawner->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (spawner->signal_fd < 0)
		_exit(1);
	for (;;) {
		struct pollfd fds[2] = {{.fd = spawner->socket, .events = POLLIN},
			{.fd = spawner->signal_fd, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			_exit(1);
		if (fds[1].revents != 0)
			reap(spawner);
		if (fds[0].revents != 0 && !take_order(spawner))
			_exit(0);
	}
}

int spawner_open(void)
{
	static struct spawner spawner;
	int sockets[2], owner[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
		return -errno;
	if (pipe2(owner, O_CLOEXEC) != 0)
		goto close_sockets;
	pid_t pid = fork();
	if (pid < 0)
		goto close_owner;
	if (pid == 0) {
		spawner.socket = sockets[1];
		spawner.owner_fd = fcntl(owner[0], F_DUPFD_CLOEXEC, 10);
		close(sockets[0]);
		close(owner[0]);
		close(owner[1]); /* only the agent keeps it: its end is the owner's end */
		spawner_run(&spawner);
	}
	close(sockets[1]);
	close(owner[0]);
	return sockets[0]; /* owner[1] stays open for the life of the agent */
close_owner:
	close(owner[0]);
	close(owner[1]);
close_sockets:
	close(sockets[0]);
	close(sockets[1]);
	return -EAGAIN;
}
