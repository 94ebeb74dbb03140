/*
 * farmem/mailbox.c: see mailbox.h. Callers: the runtime (on a thread of its own) and the agent.
 *
 * Connecting and starting happen under the tree's lock (flock on agent.lock), and an agent that
 * ends takes the same lock: so there is never a second agent, and nobody connects to one that is
 * leaving. Everybody holds the lock for a bounded time: one agent's start, or one agent's last
 * moments.
 *
 * Invariants
 *   1. No malloc, no look at `environ`: this runs inside other people's programs.
 *   2. Directories we use belong to us and nobody else can rename what is in them.
 *   3. Received descriptors are close-on-exec and never leak: at most as many as are asked for are
 *      handed on, others are closed.
 */
#include "farmem/mailbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "farmem/mailbox_start.h"

#define MESSAGE_FDS_MAX 4 /* looked at per message; the kernel drops further ones */

/* ---- directories ---- */

/* Letters, digits, '-', '_', '.', not in front: it becomes a file name. */
static bool tree_name_good(const char *tree)
{
	static const char good[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	return tree != NULL && tree[0] != '\0' && tree[0] != '.' &&
	       tree[strspn(tree, good)] == '\0';
}

static int dir_default(char *path, unsigned size)
{
	struct mailbox_environment environment;
	int length;
	if (geteuid() == 0) {
		length = snprintf(path, size, "/run/farmem");
		return length < (int)size ? 0 : -ENAMETOOLONG;
	}
	int error = mailbox_environment_open(&environment);
	if (error != 0)
		return error;
	const char *session = mailbox_environment_get(&environment, "XDG_RUNTIME_DIR");
	if (session != NULL && session[0] == '/')
		length = snprintf(path, size, "%s/farmem", session);
	else
		length = snprintf(path, size, "/tmp/farmem-%u", (unsigned)geteuid());
	mailbox_environment_close(&environment);
	return length < (int)size ? 0 : -ENAMETOOLONG;
}

/* Makes a directory, or takes the one there if `mask` bits are unset and its owner is root or we.
 */
static int dir_make(const char *path, mode_t mask)
{
	struct stat is;
	const mode_t mode = geteuid() == 0 ? 0711 : 0700; /* see mailbox_tree_dir */
	if (mkdir(path, 0700) == 0)
		(void)chmod(path, mode);
	else if (errno != EEXIST)
		return -errno;
	if (lstat(path, &is) != 0)
		return -errno;
	if (S_ISLNK(is.st_mode) && mask == 0 && stat(path, &is) != 0)
		return -errno;
	if (!S_ISDIR(is.st_mode))
		return -ENOTDIR;
	if (is.st_uid != geteuid() && (is.st_uid != 0 || mask != 0))
		return -EPERM;
	/* Others may have files beside ours only where they cannot rename ours (/tmp). */
	if ((is.st_mode & mask) != 0 || ((is.st_mode & 022) != 0 && (is.st_mode & S_ISVTX) == 0))
		return -EPERM;
	return 0;
}

int mailbox_tree_dir(const char *dir, const char *tree, char *path, unsigned size)
{
	char base[MAILBOX_TREE_DIR_MAX];
	int error = 0, length;
	if (!tree_name_good(tree))
		return -EINVAL;
	if (dir == NULL || dir[0] == '\0')
		error = dir_default(base, sizeof base);
	else if (snprintf(base, sizeof base, "%s", dir) >= (int)sizeof base)
		error = -ENAMETOOLONG;
	if (error != 0)
		return error;
	length = snprintf(path, size, "%s/%s", base, tree);
	if (length >= (int)size || length >= MAILBOX_TREE_DIR_MAX)
		return -ENAMETOOLONG;
	error = dir_make(base, 0);
	return error != 0 ? error : dir_make(path, geteuid() == 0 ? 066 : 077);
}

/* ---- connecting ---- */

static int socket_connect(const char *tree_dir, uint64_t deadline_ns)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint64_t now_ns = clock_now_ns();
	uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : NS_PER_MS;
	struct timeval limit = {.tv_sec = (time_t)FM_MIN(left_ns / NS_PER_S, 3600ull),
		.tv_usec = (suseconds_t)(left_ns % NS_PER_S / NS_PER_US)};
	int length =
		snprintf(address.sun_path, sizeof address.sun_path, "%s/" MAILBOX_SOCKET, tree_dir);
	if (length >= (int)sizeof address.sun_path)
		return -ENAMETOOLONG;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Bounds connect() when the agent stands still and its queue is full. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	int error = -errno;
	close(fd);
	return error == -EAGAIN ? -ETIMEDOUT : error;
}

/* The descriptor of the tree's lock, held; or -errno, -ESTALE when the directory was just removed.
 */
static int tree_lock(const char *tree_dir)
{
	char path[MAILBOX_TREE_DIR_MAX + 16];
	struct stat held, there;
	snprintf(path, sizeof path, "%s/" MAILBOX_LOCK, tree_dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return errno == ENOENT ? -ESTALE : -errno;
	if (flock(fd, LOCK_EX) == 0 && fstat(fd, &held) == 0 && stat(path, &there) == 0 &&
		held.st_ino == there.st_ino && held.st_dev == there.st_dev)
		return fd;
	int error = errno == EINTR ? -EINTR : -ESTALE;
	close(fd);
	return error;
}

static int connect_locked(const char *tree_dir, uint64_t deadline_ns)
{
	int fd = socket_connect(tree_dir, deadline_ns);
	if (fd != -ENOENT && fd != -ECONNREFUSED)
		return fd;
	struct mailbox_environment environment;
	int error = mailbox_environment_open(&environment);
	if (error != 0)
		return error;
	error = mailbox_start_agent(tree_dir, &environment, deadline_ns);
	mailbox_environment_close(&environment);
	return error != 0 ? error : socket_connect(tree_dir, deadline_ns);
}

int mailbox_connect(const char *dir, const char *tree, uint64_t deadline_ns)
{
	char path[MAILBOX_TREE_DIR_MAX];
	do {
		int error = mailbox_tree_dir(dir, tree, path, sizeof path);
		if (error != 0)
			return error;
		int lock = tree_lock(path);
		if (lock == -ESTALE || lock == -EINTR)
			continue; /* an agent has just left and taken its directory along */
		if (lock < 0)
			return lock;
		int fd = connect_locked(path, deadline_ns);
		close(lock);
		return fd;
	} while (clock_now_ns() < deadline_ns);
	return -ETIMEDOUT;
}

/* ---- messages ---- */

static size_t message_bytes(const struct mailbox_message *message)
{
	if (message->kind != MAILBOX_HELLO && message->kind != MAILBOX_NOTICE &&
		message->kind != MAILBOX_DRAIN)
		return MAILBOX_HEAD_BYTES;
	return MAILBOX_HEAD_BYTES + strnlen(message->text, sizeof message->text - 1) + 1;
}

int mailbox_send(int socket, const struct mailbox_message *message, int fd_or_minus_1)
{
	return mailbox_send_fds(socket, message, &fd_or_minus_1, fd_or_minus_1 >= 0);
}

int mailbox_send_fds(
	int socket, const struct mailbox_message *message, const int *fds, unsigned fds_count)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(MAILBOX_FDS_MAX * sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)message, message_bytes(message)};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fds_count > MAILBOX_FDS_MAX)
		return -EINVAL;
	if (fds_count > 0) {
		packet.msg_control = control.space;
		packet.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, fds_count * sizeof(int));
	}
	for (;;) {
		if (sendmsg(socket, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == EPIPE ? -ECONNRESET : -errno;
	}
}

/* Hands on the first descriptors that came along; closes the others. */
static void take_descriptors(struct msghdr *packet, int fds[MAILBOX_FDS_MAX])
{
	unsigned taken = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(packet); c != NULL; c = CMSG_NXTHDR(packet, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int each;
			memcpy(&each, CMSG_DATA(c) + i * sizeof(int), sizeof each);
			if (taken < MAILBOX_FDS_MAX)
				fds[taken++] = each;
			else
				close(each);
		}
	}
}

static void close_descriptors(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

int mailbox_receive(int socket, struct mailbox_message *message, int *fd)
{
	int fds[MAILBOX_FDS_MAX];
	int rc = mailbox_receive_fds(socket, message, fds);
	*fd = fds[0];
	close_descriptors(fds + 1, MAILBOX_FDS_MAX - 1);
	return rc;
}

int mailbox_receive_fds(int socket, struct mailbox_message *message, int fds[MAILBOX_FDS_MAX])
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {message, sizeof *message};
	struct msghdr packet = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof control.space};
	ssize_t length;
	for (unsigned i = 0; i < MAILBOX_FDS_MAX; i++)
		fds[i] = -1;
	memset(message, 0, sizeof *message);
	do {
		length = recvmsg(socket, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (length < 0 && errno == EINTR);
	if (length < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? -EAGAIN : -ECONNRESET;
	if (length == 0)
		return -ECONNRESET;
	take_descriptors(&packet, fds);
	message->text[sizeof message->text - 1] = '\0';
	if (length >= MAILBOX_HEAD_BYTES && (packet.msg_flags & MSG_TRUNC) == 0 &&
		message->version == MAILBOX_VERSION)
		return 0;
	close_descriptors(fds, MAILBOX_FDS_MAX);
	return -EPROTO;
}
