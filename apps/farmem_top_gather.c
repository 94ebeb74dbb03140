/*
 * apps/farmem_top_gather.c: finds the running trees, asks their agents.
 *
 * An agent listens on <dir>/<tree>/agent.sock (farmem/mailbox.h) and answers MAILBOX_STATS with
 * packets of JSON text, ended by an empty packet. Directories whose agent has gone refuse the
 * connection and are passed over. What comes back is not trusted: sizes are bounded, types are
 * checked where they are used.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "apps/farmem_top.h"
#include "base/clock.h"
#include "farmem/mailbox.h"

#define ANSWER_BYTES_MAX (8u << 20) /* of one agent */
#define ANSWER_WAIT_MS 2000

static int agent_connect(const char *dir, const char *tree)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = ANSWER_WAIT_MS / 1000};
	int written = snprintf(name.sun_path, sizeof(name.sun_path), "%s/%s/agent.sock", dir, tree);
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

/* The whole answer into text. Its length, or -errno. */
static ssize_t agent_ask(int fd, char *text)
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

/* Takes process over. */
static void process_add(cJSON *process, const char *tree, int64_t pid, cJSON *processes)
{
	const cJSON *its_pid = cJSON_GetObjectItemCaseSensitive(process, "pid");
	struct timespec now;

	if (pid != 0 && !(cJSON_IsNumber(its_pid) && (int64_t)its_pid->valuedouble == pid)) {
		cJSON_Delete(process);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	cJSON_AddStringToObject(process, "tree", tree);
	cJSON_AddNumberToObject(process, "sampled_unix_ms",
		(double)now.tv_sec * 1e3 + (double)(now.tv_nsec / 1000000));
	cJSON_AddItemToArray(processes, process);
}

int top_parse(const char *text, size_t length, const char *tree, int64_t pid, cJSON *processes)
{
	cJSON *answer = cJSON_ParseWithLength(text, length);
	cJSON *list = cJSON_IsObject(answer) ? cJSON_GetObjectItemCaseSensitive(answer, "processes")
					     : answer;

	if (!cJSON_IsArray(list)) {
		cJSON_Delete(answer);
		return -EPROTO;
	}
	while (cJSON_GetArraySize(list) > 0) {
		cJSON *process = cJSON_DetachItemFromArray(list, 0);

		if (cJSON_IsObject(process))
			process_add(process, tree, pid, processes);
		else
			cJSON_Delete(process);
	}
	cJSON_Delete(answer);
	return 0;
}

/* 0, -ECONNREFUSED or -ENOENT when no agent is there, or what went wrong. */
static int tree_gather(const char *dir, const char *tree, int64_t pid, struct top_sample *sample)
{
	int fd = agent_connect(dir, tree);
	ssize_t length;
	char *text;
	int rc;

	if (fd < 0)
		return fd;
	text = malloc(ANSWER_BYTES_MAX);
	length = text ? agent_ask(fd, text) : -ENOMEM;
	rc = length < 0 ? (int)length
			: top_parse(text, (size_t)length, tree, pid, sample->processes);
	free(text);
	close(fd);
	return rc;
}

int top_gather(const char *dir, int64_t pid, struct top_sample *sample)
{
	DIR *trees = opendir(dir);
	const struct dirent *entry;

	*sample = (struct top_sample){.processes = cJSON_CreateArray(), .taken_ns = clock_now_ns()};
	if (!trees)
		return errno == ENOENT ? 0 : -errno;
	while ((entry = readdir(trees))) {
		int rc;

		if (entry->d_name[0] == '.')
			continue;
		rc = tree_gather(dir, entry->d_name, pid, sample);
		if (rc == 0)
			sample->agents++;
		else if (rc != -ECONNREFUSED && rc != -ENOENT && rc != -ENOTDIR)
			sample->silent++;
	}
	closedir(trees);
	return 0;
}

void top_sample_free(struct top_sample *sample)
{
	cJSON_Delete(sample->processes);
	sample->processes = NULL;
}
