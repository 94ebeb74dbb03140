/*
 * farmem/agent/agent_stats.c: what the agent knows, as JSON, for `farmem top`, `nodes` and `drain`.
 *
 *     {"agent": {"pid", "version", "dir", "membership": "none|embedded|static", "uptime_ns",
 *                "rebuild_limit_bytes_per_s": 0 while nothing is held back},
 *      "nodes": [one for each member, see below],
 *      "processes": [{"pid", "command", "started_ns", "scheme", "code_k", "code_m", "region_bytes",
 * "evict", "groups_wanted", "nodes_full", gauges and counters by the names of struct catalog_stats,
 *          "fault_ns": {"count","mean","p50","p99","p999","max"}, ...,
 *          "groups": [{"k","m","state": "none|open|closed|evacuate|retired","count"}],
 *          "columns_lost",
 *          "redundancy_lost_ns": for how long it has not been whole; 0: it is,
 *          "repairs": [{"group", "position", "kind": "decode|copy",
 *              "phase": "reserving|working|fencing|stuck", "from", "to": names of nodes,
 *              "done_bytes", "total_bytes" (an estimate), "bytes_per_s", "age_ns"}],
 *          "nodes": [the catalog's, as this program sees them]}]}
 *
 * A member:
 *     {"name", "host", "endpoint", "incarnation": 16 hexadecimal digits, or "" while it does not
 *      serve, "state": "joining|up|suspect|alias", "draining": true|false,
 *      "quarantined_until_ns": realtime, or 0, "memory_bytes", "leased_bytes", "free_bytes",
 *      "leases", "orphaned", "calls_in_flight", "rebuilds", "rtt_ns", "delay_ns", "in_flight" (of
 *      its data server, by probes; 0 when not known),
 *      "columns": of this agent's programs there,
 *      "in": columns that are being rebuilt or copied there,
 *      "out": columns that are to leave it (it drains),
 *         each {"columns", "done_bytes", "total_bytes", "bytes_per_s"}}
 *     A drain is over when "draining" and "out.columns" is 0: what is left in "columns" then stays.
 */
#include <cJSON.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"
#include "farmem/scheme.h"
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
	static const char *const names[] = {"none", "open", "closed", "evacuate", "retired"};
	unsigned counts[EC_K_MAX + 1][EC_M_MAX + 1][FM_ARRAY_COUNT(names)] = {0};
	const unsigned states = FM_ARRAY_COUNT(names);
	uint64_t lost = 0;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		const struct agent_group *group = &runtime->groups[g];
		uint32_t state = atomic_load_explicit(
			&runtime->catalog.groups[g].state, memory_order_acquire);
		counts[group->k][group->m][FM_MIN(state, states - 1)]++;
		for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
			lost += group->columns[p].lost && !group->retired;
	}
	cJSON *array = cJSON_AddArrayToObject(process, "groups");
	for (unsigned i = 0; i < sizeof counts / sizeof counts[0][0][0]; i++) {
		unsigned k = i / states / (EC_M_MAX + 1), m = i / states % (EC_M_MAX + 1);
		unsigned state = i % states;
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

/* ---- columns on their way ---- */

struct moving {
	unsigned columns;
	uint64_t done_bytes, total_bytes;
	double bytes_per_s;
};

static double repair_speed(const struct repair *repair)
{
	double seconds = (double)(clock_now_ns() - repair->begun_ns) / (double)NS_PER_S;
	return seconds > 0 ? (double)repair->rebuilt_bytes / seconds : 0;
}

static uint32_t slot_bytes(const struct catalog *catalog, unsigned group)
{
	return scheme_slot_bytes(catalog, &catalog->groups[group]);
}

static uint64_t column_bytes(const struct agent_runtime *runtime, unsigned group, unsigned position)
{
	uint32_t used = atomic_load_explicit(
		&runtime->catalog.groups[group].columns[position].used, memory_order_relaxed);
	return (uint64_t)FM_MIN(used, CATALOG_SLOTS_MAX) * slot_bytes(&runtime->catalog, group);
}

static uint64_t repair_done_bytes(const struct repair *repair)
{
	const struct catalog *catalog = &repair->runtime->catalog;
	if (repair->phase == REPAIR_RESERVING)
		return 0;
	return slot_bytes(catalog, repair->group) *
	       atomic_load_explicit(
		       &catalog->repairs[repair->job.repair].done_count, memory_order_relaxed);
}

static void moving_add(struct moving *moving, const struct repair *repair)
{
	moving->done_bytes += repair_done_bytes(repair);
	moving->bytes_per_s += repair_speed(repair);
}

static void add_moving(cJSON *node, const char *name, const struct moving *moving)
{
	cJSON *object = cJSON_AddObjectToObject(node, name);
	add_number(object, "columns", moving->columns);
	add_number(object, "done_bytes", moving->done_bytes);
	add_number(object, "total_bytes", FM_MAX(moving->total_bytes, moving->done_bytes));
	cJSON_AddNumberToObject(object, "bytes_per_s", moving->bytes_per_s);
}

static void add_repair(cJSON *array, const struct repair *repair)
{
	static const char *const phases[] = {"reserving", "working", "fencing", "over"};
	const struct agent_runtime *runtime = repair->runtime;
	const struct agent_column *column =
		&runtime->groups[repair->group].columns[repair->position];
	cJSON *object = cJSON_CreateObject();
	add_number(object, "group", repair->group);
	add_number(object, "position", repair->position);
	cJSON_AddStringToObject(object, "kind", column->lost ? "decode" : "copy");
	cJSON_AddStringToObject(
		object, "phase", repair->hopeless ? "stuck" : phases[repair->phase]);
	cJSON_AddStringToObject(object, "from", repair->agent->nodes[column->node].name);
	cJSON_AddStringToObject(object, "to", repair->member->name);
	uint64_t done = repair_done_bytes(repair);
	add_number(object, "done_bytes", done);
	add_number(object, "total_bytes",
		FM_MAX(done, column_bytes(runtime, repair->group, repair->position)));
	cJSON_AddNumberToObject(object, "bytes_per_s", repair_speed(repair));
	add_number(object, "age_ns", clock_now_ns() - repair->begun_ns);
	cJSON_AddItemToArray(array, object);
}

static void add_repairs(
	cJSON *process, const struct agent *agent, const struct agent_runtime *runtime)
{
	const struct repair_runtime *state = runtime->repair;
	cJSON *array = cJSON_AddArrayToObject(process, "repairs");
	for (unsigned i = 0; agent->repair != NULL && i < agent->repair->count; i++)
		if (agent->repair->repairs[i]->runtime == runtime)
			add_repair(array, agent->repair->repairs[i]);
	add_number(process, "redundancy_lost_ns",
		state != NULL && state->lost_since_ns != 0 ? clock_now_ns() - state->lost_since_ns
							   : 0);
}

/* ---- members ---- */

/* What of a group concerns the member: its columns there, those that leave it, those that come. */
static unsigned member_group(const struct agent_runtime *runtime, unsigned index,
	const struct agent_member *member, struct moving *in, struct moving *out)
{
	const struct agent_group *group = &runtime->groups[index];
	unsigned columns = 0;
	for (unsigned p = 0; p < (unsigned)group->k + group->m && !group->retired; p++) {
		const struct repair *repair = repair_of(runtime, index, p);
		bool there = !group->columns[p].lost && group->columns[p].node == member->node;
		columns += there;
		if (repair != NULL && repair->node == member->node) {
			in->columns++;
			in->total_bytes += column_bytes(runtime, index, p);
			moving_add(in, repair);
		}
		if (!there || !drain_wants(runtime, index, p))
			continue;
		out->columns++;
		out->total_bytes += column_bytes(runtime, index, p);
		if (repair != NULL)
			moving_add(out, repair);
	}
	return columns;
}

static void add_member_load(cJSON *object, const struct ctl_load *load)
{
	add_number(object, "memory_bytes", load->memory_bytes);
	add_number(object, "leased_bytes", load->leased_bytes);
	add_number(object, "free_bytes", load->free_bytes);
	add_number(object, "leases", load->leases);
	add_number(object, "orphaned", load->orphaned);
	add_number(object, "calls_in_flight", load->calls_in_flight);
	add_number(object, "rebuilds", load->rebuilds);
}

static void add_member_wait(cJSON *object, const struct agent_member *member)
{
	uint64_t delay_ns;
	uint32_t in_flight;
	(void)load_of(member, &delay_ns, &in_flight);
	add_number(object, "delay_ns", delay_ns);
	add_number(object, "in_flight", in_flight);
}

static cJSON *member_object(const struct agent *agent, const struct agent_member *member)
{
	static const char *const names[] = {"joining", "up", "suspect", "alias"};
	static const struct ctl_load none;
	const struct agent_node *node = member->node >= 0 ? &agent->nodes[member->node] : NULL;
	uint64_t now_ns = clock_now_ns();
	struct moving in = {0}, out = {0};
	unsigned columns = 0;
	char incarnation[20] = "";
	cJSON *object = cJSON_CreateObject();
	if (node != NULL)
		snprintf(incarnation, sizeof incarnation, "%016llx",
			(unsigned long long)node->incarnation);
	cJSON_AddStringToObject(object, "name", member->name);
	cJSON_AddStringToObject(object, "host", node != NULL ? node->host_id : "");
	cJSON_AddStringToObject(object, "endpoint", node != NULL ? node->endpoint : "");
	cJSON_AddStringToObject(object, "incarnation", incarnation);
	cJSON_AddStringToObject(object, "state", names[FM_MIN((unsigned)member->state, 3u)]);
	cJSON_AddBoolToObject(object, "draining", member_is_draining(member));
	add_number(object, "quarantined_until_ns",
		member->quarantined_until_ns > now_ns
			? agent_realtime_ns() + (member->quarantined_until_ns - now_ns)
			: 0);
	add_member_load(object, node != NULL ? &member->load : &none);
	add_number(object, "rtt_ns", node != NULL ? node->rtt_ns : 0);
	add_member_wait(object, member);
	for (unsigned r = 0; r < agent->runtimes_count && node != NULL; r++)
		for (unsigned g = 0; g < agent->runtimes[r]->groups_count; g++)
			columns += member_group(agent->runtimes[r], g, member, &in, &out);
	add_number(object, "columns", columns);
	add_moving(object, "in", &in);
	add_moving(object, "out", &out);
	return object;
}

/* ---- everything ---- */

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
	cJSON_AddStringToObject(process, "scheme", config_scheme_name(header->scheme));
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
	add_repairs(process, agent, runtime);
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
	add_number(object, "rebuild_limit_bytes_per_s",
		agent->repair != NULL ? throttle_limit(agent) : 0);
	return object;
}

char *stats_text(const struct agent *agent)
{
	cJSON *root = cJSON_CreateObject();
	cJSON_AddItemToObject(root, "agent", agent_object(agent));
	cJSON *nodes = cJSON_AddArrayToObject(root, "nodes");
	for (unsigned i = 0; i < agent->members_count; i++)
		cJSON_AddItemToArray(nodes, member_object(agent, &agent->members[i]));
	cJSON *processes = cJSON_AddArrayToObject(root, "processes");
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			cJSON_AddItemToArray(processes, process_object(agent, agent->runtimes[i]));
	char *text = cJSON_PrintUnformatted(root);
	cJSON_Delete(root);
	return text;
}
