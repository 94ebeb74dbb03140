/*
 * apps/farmem_drain_look.c: see farmem_drain.h.
 *
 * The end is told by what is left, not by what somebody promised: columns of programs' groups on
 * the node, as their agents count them. An agent that gives no answer may know of some: no end
 * then. A tree without an agent has no programs any more, and so nothing there.
 */
#include <stdlib.h>
#include <string.h>

#include "apps/farmem_drain.h"
#include "base/clock.h"
#include "base/options.h"

void drain_begin(struct drain *drain, const char *node)
{
	*drain = (struct drain){.node = node, .seconds = -1};
}

/* What one look adds up to. */
struct sum {
	unsigned trees, columns, cancelled; /* cancelled: of columns, where nothing drains */
	unsigned lost;                      /* columns of programs, anywhere */
	bool serves;                        /* some agent has the node */
	double done_bytes, total_bytes, bytes_per_s, seconds;
};

static void sum_node(struct sum *sum, const struct nodes_node *node)
{
	unsigned columns = node->draining ? node->out.columns : node->columns;

	sum->serves |= node->incarnation[0] != '\0';
	sum->trees += columns > 0;
	sum->columns += columns;
	if (!node->draining)
		sum->cancelled += columns;
	sum->done_bytes += node->out.done_bytes;
	sum->total_bytes += node->out.total_bytes;
	sum->bytes_per_s += node->out.bytes_per_s;
	sum->seconds = FM_MAX(sum->seconds, node->out.seconds);
}

static struct sum sum_view(struct drain *drain, const struct nodes_view *view)
{
	struct sum sum = {.seconds = -1};
	const cJSON *tree;

	for (tree = view->trees->child; tree; tree = tree->next) {
		const cJSON *item;

		sum.lost += nodes_columns_lost(tree);
		for (item = nodes_first(tree); item; item = item->next) {
			struct nodes_node node;

			nodes_read(item, &node);
			if (strcmp(node.name, drain->node) == 0)
				sum_node(&sum, &node);
		}
	}
	return sum;
}

static void judge(
	struct drain *drain, const struct sum *sum, const struct nodes_view *view, uint64_t now_ns)
{
	if (view->silent > 0 && sum->columns == 0)
		return; /* an agent that is being restarted may know of some */
	if (sum->columns == 0 && !sum->serves && sum->lost > 0) {
		drain->verdict = DRAIN_DIED;
		drain->columns = sum->lost;
		snprintf(drain->reason, sizeof(drain->reason),
			"%.64s went down before all was moved: %u columns are being rebuilt from "
			"the other nodes",
			drain->node, sum->lost);
	} else if (sum->columns == 0) {
		drain->verdict = DRAIN_DONE;
	} else if (sum->cancelled == sum->columns) {
		drain->verdict = DRAIN_CANCELLED;
		snprintf(drain->reason, sizeof(drain->reason),
			"somebody cancelled it: %u columns are still on %.64s", sum->columns,
			drain->node);
	} else if (now_ns - drain->moved_ns >= DRAIN_STUCK_NS) {
		drain->verdict = DRAIN_STUCK;
		snprintf(drain->reason, sizeof(drain->reason),
			"nothing has moved for %llu s: no other host has room for the %u columns "
			"on %.64s",
			(unsigned long long)(DRAIN_STUCK_NS / NS_PER_S), sum->columns, drain->node);
	}
}

/* Of what there was at first: columns that are gone, and what is copied of the others. */
static double share_done(const struct drain *drain, const struct sum *sum)
{
	double copied = sum->total_bytes > 0 ? sum->done_bytes / sum->total_bytes : 0;

	if (drain->begun == 0)
		return 1;
	return (drain->begun - sum->columns + sum->columns * FM_MIN(copied, 1.0)) / drain->begun;
}

void drain_look(struct drain *drain, const struct nodes_view *view, uint64_t now_ns)
{
	struct sum sum = sum_view(drain, view);
	double before = drain->share;

	drain->trees = sum.trees;
	drain->columns = sum.columns;
	drain->bytes_per_s = sum.bytes_per_s;
	drain->seconds = sum.seconds;
	drain->begun = FM_MAX(drain->begun, sum.columns);
	drain->share = share_done(drain, &sum);
	if (drain->moved_ns == 0 || drain->share > before)
		drain->moved_ns = now_ns;
	judge(drain, &sum, view, now_ns);
	if (drain->verdict == DRAIN_DIED)
		drain->share = before; /* what went with it was not moved */
}

const char *drain_describe(const struct drain *drain, char *text, size_t size)
{
	char rate[32];
	int used;

	if (drain->verdict == DRAIN_DONE) {
		snprintf(text, size, "%.64s: nothing of the programs is left there", drain->node);
		return text;
	}
	used = snprintf(text, size, "%.64s: %u of %u columns left, %.1f %% moved", drain->node,
		drain->columns, drain->begun, 100 * drain->share);
	if (drain->bytes_per_s > 0 && used > 0 && (size_t)used < size)
		used += snprintf(text + used, size - (size_t)used, ", %s/s",
			format_bytes((uint64_t)drain->bytes_per_s, rate, sizeof(rate)));
	if (drain->seconds >= 0 && used > 0 && (size_t)used < size)
		snprintf(text + used, size - (size_t)used, ", %.0f s left", drain->seconds);
	return text;
}

void drain_print_json(FILE *out, const struct drain *drain)
{
	static const char *const names[] = {"underway", "done", "died", "cancelled", "stuck"};
	cJSON *object = cJSON_CreateObject();
	char *text;

	cJSON_AddStringToObject(object, "node", drain->node);
	cJSON_AddStringToObject(object, "state", names[drain->verdict]);
	cJSON_AddNumberToObject(object, "columns_left", drain->columns);
	cJSON_AddNumberToObject(object, "columns", drain->begun);
	cJSON_AddNumberToObject(object, "share_done", drain->share);
	cJSON_AddNumberToObject(object, "bytes_per_second", drain->bytes_per_s);
	if (drain->seconds >= 0)
		cJSON_AddNumberToObject(object, "seconds_left", drain->seconds);
	if (drain->reason[0])
		cJSON_AddStringToObject(object, "reason", drain->reason);
	text = cJSON_PrintUnformatted(object);
	fprintf(out, "%s\n", text ? text : "");
	free(text);
	cJSON_Delete(object);
}
