/*
 * farmem/agent/agent_stats.c: what the agent knows, as JSON, for `farmem top`.
 *
 *     {"agent": {...}, "processes": [{"pid", "command", gauges and counters by the names of struct
 *      catalog_stats, "fault_ns": {"count","mean","p50","p99","p999","max"}, ..., "groups": [...],
 *      "nodes": [...]}]}
 */
#include <cJSON.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/stats_table.h"

static const char *const state_names[] = {"none", "up", "suspect", "down"};

static void add_number(cJSON *object, const char *name, uint64_t value)
{
	cJSON_AddNumberToObject(object, name, (double)value);
}

static void add_histogram(cJSON *process, const char *name, const struct hist *hist)
{
	cJSON *object = cJSON_AddObjectToObject(process, name);
	add_number(object, "count", atomic_load_explicit(&hist->count, memory_order_relaxed));
	cJSON_AddNumberToObject(object, "mean", hist_mean(hist));
	add_number(object, "p50", hist_quantile(hist, 0.5));
	add_number(object, "p99", hist_quantile(hist, 0.99));
	add_number(object, "p999", hist_quantile(hist, 0.999));
	add_number(object, "max", atomic_load_explicit(&hist->max, memory_order_relaxed));
}

static void add_stats(cJSON *process, const struct catalog_stats *stats)
{
	for (unsigned i = 0; i < stats_numbers_count; i++)
		add_number(process, stats_numbers[i].name, stats_number(stats, i));
	for (unsigned i = 0; i < stats_histograms_count; i++)
		add_histogram(process, stats_histograms[i].name, stats_histogram(stats, i));
}

/* Groups of one code and state, counted. */
static void add_groups(cJSON *process, const struct agent_runtime *runtime)
{
	static const char *const names[] = {"none", "open", "closed"};
	unsigned counts[EC_K_MAX + 1][EC_M_MAX + 1][3] = {0};
	uint64_t lost = 0;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		const struct agent_group *group = &runtime->groups[g];
		uint32_t state = atomic_load_explicit(
			&runtime->catalog.groups[g].state, memory_order_acquire);
		counts[group->k][group->m][FM_MIN(state, 2u)]++;
		for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
			lost += group->columns[p].lost;
	}
	cJSON *array = cJSON_AddArrayToObject(process, "groups");
	for (unsigned i = 0; i < sizeof counts / sizeof counts[0][0][0]; i++) {
		unsigned k = i / 3 / (EC_M_MAX + 1), m = i / 3 % (EC_M_MAX + 1), state = i % 3;
		if (counts[k][m][state] == 0)
			continue;
		cJSON *object = cJSON_CreateObject();
		add_number(object, "k", k);
		add_number(object, "m", m);
		cJSON_AddStringToObject(object, "state", names[state]);
		add_number(object, "count", counts[k][m][state]);
		cJSON_AddItemToArray(array, object);
	}
	add_number(process, "columns_lost", lost);
}

static void add_nodes(
	cJSON *process, const struct agent *agent, const struct agent_runtime *runtime)
{
	cJSON *array = cJSON_AddArrayToObject(process, "nodes");
	for (unsigned i = 0; i < agent->nodes_count; i++) {
		const struct agent_node *node = &agent->nodes[i];
		const struct catalog_node *entry = &runtime->catalog.nodes[i];
		uint32_t state = atomic_load_explicit(&entry->state, memory_order_acquire);
		cJSON *object = cJSON_CreateObject();
		cJSON_AddStringToObject(object, "name", node->name);
		cJSON_AddStringToObject(object, "state", state_names[FM_MIN(state, 3u)]);
		cJSON_AddStringToObject(object, "endpoint", node->endpoint);
		cJSON_AddStringToObject(object, "host", node->host_id);
		add_number(object, "memory_bytes", entry->memory_bytes);
		add_number(object, "leased_bytes", state == NODE_DOWN ? 0 : entry->leased_bytes);
		add_number(object, "rtt_ns", node->rtt_ns);
		add_number(object, "down_since_ns", node->down_since_ns);
		cJSON_AddItemToArray(array, object);
	}
}

static cJSON *process_object(const struct agent *agent, const struct agent_runtime *runtime)
{
	const struct catalog_header *header = runtime->catalog.header;
	char command[sizeof header->command + 1];
	cJSON *process = cJSON_CreateObject();
	memcpy(command, header->command, sizeof header->command);
	command[sizeof header->command] = '\0';
	cJSON_AddNumberToObject(process, "pid", (double)header->pid);
	cJSON_AddStringToObject(process, "command", command);
	add_number(process, "started_ns", header->started_ns);
	add_number(process, "code_k", runtime->wish.k);
	add_number(process, "code_m", runtime->wish.m);
	add_number(process, "region_bytes", runtime->region_bytes);
	cJSON_AddStringToObject(process, "evict",
		header->evict_mode == EVICT_MOVE ? "move"
		: header->evict_mode == EVICT_WP ? "wp"
						 : "auto");
	add_number(process, "groups_wanted",
		atomic_load_explicit(&header->groups_wanted, memory_order_relaxed));
	cJSON_AddBoolToObject(process, "nodes_full", runtime->full);
	add_stats(process, runtime->catalog.stats);
	add_groups(process, runtime);
	add_nodes(process, agent, runtime);
	return process;
}

static cJSON *agent_object(const struct agent *agent)
{
	cJSON *object = cJSON_CreateObject();
	cJSON_AddNumberToObject(object, "pid", (double)getpid());
	cJSON_AddStringToObject(object, "version", FM_VERSION);
	cJSON_AddStringToObject(object, "dir", agent->dir);
	cJSON_AddStringToObject(object, "membership",
		!agent->begun     ? "none"
		: agent->embedded ? "embedded"
				  : "static");
	add_number(object, "uptime_ns", clock_now_ns() - agent->started_ns);
	return object;
}

char *stats_text(const struct agent *agent)
{
	cJSON *root = cJSON_CreateObject();
	cJSON_AddItemToObject(root, "agent", agent_object(agent));
	cJSON *processes = cJSON_AddArrayToObject(root, "processes");
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			cJSON_AddItemToArray(processes, process_object(agent, agent->runtimes[i]));
	char *text = cJSON_PrintUnformatted(root);
	cJSON_Delete(root);
	return text;
}
