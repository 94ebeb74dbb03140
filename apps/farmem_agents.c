/*
 * apps/farmem_agents.c: see farmem_agents.h.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "apps/farmem_agents.h"
#include "base/clock.h"

#define ANSWER_BYTES_MAX (8u << 20) /* of one agent */
#define ORDER_MESSAGES_MAX 64       /* others that may come before DONE */

static int agents_connect(const char *dir, const char *tree)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = AGENTS_WAIT_MS / 1000};
	int written =
		snprintf(name.sun_path, sizeof(name.sun_path), "%s/%s/" MAILBOX_SOCKET, dir, tree);
	int fd, rc;

	if (written < 0 || (size_t)written >= sizeof(name.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

int agents_visit(const char *dir, const char *tree,
	int (*visit)(void *context, const char *tree, int fd), void *context,
	struct agents_count *count)
{
	DIR *trees = opendir(dir);
	struct agents_count counted = {0, 0};
	const struct dirent *entry;

	if (!trees && errno != ENOENT)
		return -errno;
	while (trees && (entry = readdir(trees))) {
		int fd, rc;

		if (entry->d_name[0] == '.' || (tree && strcmp(tree, entry->d_name) != 0))
			continue;
		fd = agents_connect(dir, entry->d_name);
		rc = fd < 0 ? fd : visit(context, entry->d_name, fd);
		if (fd >= 0)
			close(fd);
		if (rc == 0)
			counted.answered++;
		else if (fd >= 0 || (rc != -ECONNREFUSED && rc != -ENOENT && rc != -ENOTDIR))
			counted.silent++;
	}
	if (trees)
		closedir(trees);
	if (count)
		*count = counted;
	return 0;
}

/* The whole answer into text. Its length, or -errno. */
static ssize_t stats_receive(int fd, char *text)
{
	struct mailbox_message question = {.version = MAILBOX_VERSION, .kind = MAILBOX_STATS};
	size_t used = 0;

	if (send(fd, &question, MAILBOX_HEAD_BYTES, MSG_NOSIGNAL) != MAILBOX_HEAD_BYTES)
		return -errno;
	while (used + MAILBOX_TEXT_MAX <= ANSWER_BYTES_MAX) {
		ssize_t got = recv(fd, text + used, MAILBOX_TEXT_MAX, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return (ssize_t)used;
		used += (size_t)got;
	}
	return -EMSGSIZE;
}

cJSON *agents_stats(int fd, int *rc)
{
	char *text = malloc(ANSWER_BYTES_MAX);
	ssize_t length = text ? stats_receive(fd, text) : -ENOMEM;
	cJSON *answer = length < 0 ? NULL : cJSON_ParseWithLength(text, (size_t)length);

	free(text);
	*rc = length < 0 ? (int)length : answer ? 0 : -EPROTO;
	return answer;
}

/* Nothing of the text beyond its NUL. */
static int order_send(int fd, const struct mailbox_message *order)
{
	size_t length = MAILBOX_HEAD_BYTES;

	if (order->text[0])
		length += strnlen(order->text, sizeof(order->text) - 1) + 1;
	return send(fd, order, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -errno;
}

int64_t agents_order(int fd, const struct mailbox_message *order, int *received)
{
	uint64_t until_ns = clock_now_ns() + AGENTS_WAIT_MS * NS_PER_MS;
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	struct mailbox_message answer;
	int rc = order_send(fd, order);

	*received = -1;
	for (unsigned i = 0; rc == 0 && i < ORDER_MESSAGES_MAX; i++) {
		uint64_t now_ns = clock_now_ns();

		if (now_ns >= until_ns)
			return -ETIMEDOUT;
		poll(&ready, 1, (int)((until_ns - now_ns) / NS_PER_MS) + 1);
		rc = mailbox_receive(fd, &answer, received);
		if (rc == 0 && answer.kind == MAILBOX_DONE)
			return answer.value;
		if (*received >= 0)
			close(*received);
		*received = -1;
		if (rc == -EAGAIN)
			rc = 0;
	}
	return rc < 0 ? rc : -EPROTO;
}
