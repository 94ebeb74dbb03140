/*
 * apps/farmem_top_gather.c: asks the agents of the running trees (farmem_agents.h) and keeps what
 * they say about their processes.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "apps/farmem_agents.h"
#include "apps/farmem_top.h"
#include "base/clock.h"

/* What the agent knows of its members is more than what a program's catalog says of its nodes. */
static bool member_drains(const cJSON *members, const cJSON *node)
{
	const cJSON *name = cJSON_GetObjectItemCaseSensitive(node, "name"), *member;

	cJSON_ArrayForEach(member, members)
	{
		const cJSON *its = cJSON_GetObjectItemCaseSensitive(member, "name");

		if (cJSON_IsString(name) && cJSON_IsString(its) &&
			strcmp(name->valuestring, its->valuestring) == 0)
			return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(member, "draining"));
	}
	return false;
}

static void mark_draining(const cJSON *members, const cJSON *process)
{
	cJSON *node;

	cJSON_ArrayForEach(node, cJSON_GetObjectItemCaseSensitive(process, "nodes"))
	{
		if (!cJSON_IsObject(node))
			continue;
		cJSON_DeleteItemFromObjectCaseSensitive(node, "draining");
		cJSON_AddBoolToObject(node, "draining", member_drains(members, node));
	}
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

/* Takes the answer over. */
static int answer_take(cJSON *answer, const char *tree, int64_t pid, cJSON *processes)
{
	cJSON *list = cJSON_IsObject(answer) ? cJSON_GetObjectItemCaseSensitive(answer, "processes")
					     : answer;

	if (!cJSON_IsArray(list)) {
		cJSON_Delete(answer);
		return -EPROTO;
	}
	while (cJSON_GetArraySize(list) > 0) {
		cJSON *process = cJSON_DetachItemFromArray(list, 0);

		if (!cJSON_IsObject(process)) {
			cJSON_Delete(process);
			continue;
		}
		mark_draining(cJSON_GetObjectItemCaseSensitive(answer, "nodes"), process);
		process_add(process, tree, pid, processes);
	}
	cJSON_Delete(answer);
	return 0;
}

int top_parse(const char *text, size_t length, const char *tree, int64_t pid, cJSON *processes)
{
	return answer_take(cJSON_ParseWithLength(text, length), tree, pid, processes);
}

struct gather {
	struct top_sample *sample;
	int64_t pid;
};

static int tree_gather(void *context, const char *tree, int fd)
{
	const struct gather *gather = context;
	int rc;
	cJSON *answer = agents_stats(fd, &rc);

	return rc < 0 ? rc : answer_take(answer, tree, gather->pid, gather->sample->processes);
}

int top_gather(const char *dir, int64_t pid, struct top_sample *sample)
{
	struct gather gather = {sample, pid};
	struct agents_count count = {0, 0};
	int rc;

	*sample = (struct top_sample){.processes = cJSON_CreateArray(), .taken_ns = clock_now_ns()};
	rc = agents_visit(dir, NULL, tree_gather, &gather, &count);
	sample->agents = count.answered;
	sample->silent = count.silent;
	return rc;
}

void top_sample_free(struct top_sample *sample)
{
	cJSON_Delete(sample->processes);
	sample->processes = NULL;
}
