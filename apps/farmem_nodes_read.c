/*
 * apps/farmem_nodes_read.c: agents' answers about their nodes, as numbers (see farmem_nodes.h; what
 * an agent sends: farmem/agent/agent_stats.c). A member that is missing or of another type counts
 * as 0 or "".
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "apps/farmem_agents.h"
#include "apps/farmem_nodes.h"
#include "base/clock.h"

#define NUMBER_MAX 1e19

static double number(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	/* What an agent sends may be anything: keep it where casts to integers are defined. */
	return cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble < NUMBER_MAX
		       ? item->valuedouble
		       : 0;
}

static unsigned count(const cJSON *object, const char *name)
{
	return (unsigned)FM_MIN(number(object, name), 1e9);
}

static const char *string(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsString(item) ? item->valuestring : "";
}

static const cJSON *first_of(const cJSON *object, const char *name)
{
	const cJSON *array = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsArray(array) ? array->child : NULL;
}

/* --- one node -----------------------------------------------------------------------------------
 */

static struct nodes_work read_work(const cJSON *node, const char *name)
{
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(node, name);
	struct nodes_work work = {.columns = count(object, "columns"),
		.done_bytes = number(object, "done_bytes"),
		.total_bytes = number(object, "total_bytes"),
		.bytes_per_s = number(object, "bytes_per_s"),
		.seconds = -1};

	if (work.total_bytes > 0)
		work.share = FM_MIN(work.done_bytes / work.total_bytes, 1.0);
	if (work.bytes_per_s > 0 && work.total_bytes > 0)
		work.seconds = FM_MAX(work.total_bytes - work.done_bytes, 0.0) / work.bytes_per_s;
	return work;
}

static double seconds_until(double realtime_ns)
{
	struct timespec now;
	double left;

	if (realtime_ns <= 0)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	left = realtime_ns / NS_PER_S - (double)now.tv_sec - (double)now.tv_nsec / NS_PER_S;
	return FM_MAX(left, 0.0);
}

void nodes_read(const cJSON *node, struct nodes_node *out)
{
	*out = (struct nodes_node){.calls = count(node, "calls_in_flight"),
		.rebuilds = count(node, "rebuilds"),
		.memory_bytes = number(node, "memory_bytes"),
		.free_bytes = number(node, "free_bytes"),
		.leased_bytes = number(node, "leased_bytes"),
		.rtt_ns = number(node, "rtt_ns"),
		.delay_ns = number(node, "delay_ns"),
		.columns = count(node, "columns"),
		.draining = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(node, "draining")),
		.quarantine_s = seconds_until(number(node, "quarantined_until_ns")),
		.in = read_work(node, "in"),
		.out = read_work(node, "out")};
	snprintf(out->name, sizeof(out->name), "%s", string(node, "name"));
	snprintf(out->host, sizeof(out->host), "%s", string(node, "host"));
	snprintf(out->state, sizeof(out->state), "%s", string(node, "state"));
	snprintf(out->incarnation, sizeof(out->incarnation), "%s", string(node, "incarnation"));
}

/* --- one tree -----------------------------------------------------------------------------------
 */

const cJSON *nodes_first(const cJSON *tree)
{
	return first_of(tree, "nodes");
}

unsigned nodes_columns_lost(const cJSON *tree)
{
	const cJSON *process = first_of(tree, "processes");
	unsigned lost = 0;

	for (; process; process = process->next)
		lost += count(process, "columns_lost");
	return lost;
}

/* Since when the node of that name is down, as some program's catalog has it; 0: it is not. */
static double down_since(const cJSON *tree, const char *name)
{
	const cJSON *process = first_of(tree, "processes");
	double since_ns = 0;

	for (; process; process = process->next) {
		const cJSON *node = first_of(process, "nodes");

		for (; node; node = node->next)
			if (strcmp(string(node, "name"), name) == 0 &&
				strcmp(string(node, "state"), "down") == 0)
				since_ns = FM_MAX(since_ns, number(node, "down_since_ns"));
	}
	return since_ns;
}

/* To the agent a node that went down is a member it waits for; to people it is down. */
static void name_down(cJSON *tree)
{
	cJSON *array = cJSON_GetObjectItemCaseSensitive(tree, "nodes"), *node;

	for (node = array->child; node; node = node->next) {
		double since_ns;

		if (strcmp(string(node, "state"), "joining") != 0)
			continue;
		since_ns = down_since(tree, string(node, "name"));
		if (since_ns <= 0)
			continue;
		cJSON_ReplaceItemInObjectCaseSensitive(node, "state", cJSON_CreateString("down"));
		cJSON_AddNumberToObject(node, "down_since_ns", since_ns);
	}
}

int nodes_take(struct nodes_view *view, const char *tree, cJSON *answer)
{
	if (!cJSON_IsObject(answer) ||
		!cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(answer, "nodes"))) {
		cJSON_Delete(answer);
		return -EPROTO;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(answer, "tree");
	cJSON_AddStringToObject(answer, "tree", tree);
	name_down(answer);
	cJSON_AddItemToArray(view->trees, answer);
	return 0;
}

static int gather_tree(void *context, const char *tree, int fd)
{
	int rc;
	cJSON *answer = agents_stats(fd, &rc);

	return rc < 0 ? rc : nodes_take(context, tree, answer);
}

int nodes_gather(const char *dir, const char *tree, struct nodes_view *view)
{
	struct agents_count count_ = {0, 0};
	int rc;

	*view = (struct nodes_view){.trees = cJSON_CreateArray()};
	rc = agents_visit(dir, tree, gather_tree, view, &count_);
	view->agents = count_.answered;
	view->silent = count_.silent;
	if (rc < 0)
		nodes_free(view);
	return rc;
}

void nodes_free(struct nodes_view *view)
{
	cJSON_Delete(view->trees);
	view->trees = NULL;
}
