/*
 * apps/farmem_inspect_json.c: a catalog and what its audit found, as one JSON object. Its members
 * are told in farmem-inspect(1). Spansets may be millions: they are written one by one.
 */
#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apps/farmem_inspect.h"
#include "base/config.h"

static void number(cJSON *object, const char *name, uint64_t value)
{
	cJSON_AddNumberToObject(object, name, (double)value);
}

static void text_of(cJSON *object, const char *name, const char *from, unsigned length)
{
	char text[FABRIC_ENDPOINT_MAX + 1];

	cJSON_AddStringToObject(object, name, inspect_text(from, length, text, sizeof(text)));
}

static cJSON *node_object(const struct inspect *inspect, uint32_t index)
{
	const struct catalog_node *node = &inspect->audit.catalog.nodes[index];
	cJSON *object = cJSON_CreateObject();
	char incarnation[24];

	number(object, "index", index);
	text_of(object, "name", node->name, sizeof(node->name));
	cJSON_AddStringToObject(object, "state", inspect_node_state(atomic_load(&node->state)));
	text_of(object, "endpoint", node->endpoint, sizeof(node->endpoint));
	number(object, "host", node->host);
	/* 64 bits do not fit a double */
	snprintf(
		incarnation, sizeof(incarnation), "%016llx", (unsigned long long)node->incarnation);
	cJSON_AddStringToObject(object, "incarnation", incarnation);
	number(object, "memory_bytes", atomic_load(&node->memory_bytes));
	number(object, "leased_bytes", atomic_load(&node->leased_bytes));
	cJSON_AddBoolToObject(object, "draining", atomic_load(&node->draining) != 0);
	return object;
}

static cJSON *place_object(const struct catalog_place *place)
{
	cJSON *object = cJSON_CreateObject();

	number(object, "node", place->node % CATALOG_NODES_MAX);
	number(object, "lease", place->capability.lease);
	number(object, "region", place->capability.region);
	return object;
}

static cJSON *column_object(const struct inspect *inspect, uint32_t group, unsigned pos)
{
	const struct audit_group *g = &inspect->audit.groups[group];
	const struct catalog_column *column = &inspect->audit.catalog.groups[group].columns[pos];
	uint32_t generation = atomic_load(&column->generation);
	struct inspect_repair repair = inspect_repair(inspect, group, pos);
	cJSON *object = cJSON_CreateObject(), *next;

	cJSON_AddItemToObject(object, "cur", place_object(&column->places[generation & 1]));
	number(object, "generation", generation);
	cJSON_AddBoolToObject(object, "lost", atomic_load(&column->lost) != 0);
	number(object, "used_slots", g->used[pos]);
	number(object, "named_slots", g->named[pos]);
	if (!repair.active)
		return object;
	next = place_object(&column->places[repair.next & 1]);
	cJSON_AddStringToObject(next, "kind", repair.copies ? "copy" : "decode");
	number(next, "done_slots", repair.done);
	number(next, "total_slots", repair.total);
	number(next, "started_ns", repair.started_ns);
	cJSON_AddNumberToObject(next, "bytes_per_second", repair.rate);
	if (repair.seconds >= 0)
		cJSON_AddNumberToObject(next, "seconds_left", repair.seconds);
	cJSON_AddItemToObject(object, "next", next);
	return object;
}

static cJSON *group_object(const struct inspect *inspect, uint32_t index)
{
	const struct audit_group *g = &inspect->audit.groups[index];
	cJSON *object = cJSON_CreateObject(), *records, *columns;

	number(object, "index", index);
	number(object, "k", g->k);
	number(object, "m", g->m);
	cJSON_AddStringToObject(object, "state", inspect_group_state(g->state));
	number(object, "slot_count", g->slot_count);
	number(object, "live_pages", g->live);
	cJSON_AddBoolToObject(object, "moving", g->moving);
	records = cJSON_AddObjectToObject(object, "spansets");
	for (unsigned i = RECORD_STABLE; i <= RECORD_LIMBO; i++)
		number(records, inspect_record_state(i), g->records[i]);
	columns = cJSON_AddArrayToObject(object, "columns");
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m && g->known; pos++)
		cJSON_AddItemToArray(columns, column_object(inspect, index, pos));
	return object;
}

static void add_groups(cJSON *root, const struct inspect *inspect)
{
	struct inspect_groups sum = inspect_groups(inspect);
	cJSON *object = cJSON_AddObjectToObject(root, "groups"), *list;

	for (unsigned i = GROUP_OPEN; i <= GROUP_RETIRED; i++)
		number(object, inspect_group_state(i), sum.states[i]);
	number(object, "columns_lost", sum.lost);
	number(object, "columns_rebuilding", sum.repairing);
	number(object, "columns_moving", sum.draining);
	if (!inspect->groups)
		return;
	list = cJSON_AddArrayToObject(object, "list");
	for (uint32_t i = 0; i < inspect->audit.groups_count; i++)
		cJSON_AddItemToArray(list, group_object(inspect, i));
}

static void add_space(cJSON *root, const struct audit_space *s)
{
	cJSON *object = cJSON_AddObjectToObject(root, "slots");

	number(object, "capacity", s->capacity);
	number(object, "used", s->used);
	number(object, "live", s->far);
	number(object, "retained", s->retained);
	number(object, "staged", s->staged);
	number(object, "repacked", s->repacked);
	number(object, "dead", s->dead);
	number(object, "parity", s->parity);
	number(object, "limbo", s->limbo);
	number(object, "quarantined", s->quarantined);
	number(object, "in_flight", s->in_flight);
	number(object, "held_by_none", s->loose);
}

static void add_index(cJSON *object, const char *name, uint32_t value)
{
	if (value != AUDIT_NONE)
		number(object, name, value);
}

static void add_check(cJSON *root, const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;
	cJSON *object = cJSON_AddObjectToObject(root, "check"), *list, *counts;
	char text[200];

	cJSON_AddBoolToObject(object, "consistent", inspect->consistent);
	cJSON_AddBoolToObject(object, "stopped", inspect->stopped);
	number(object, "looks", a->looks);
	number(object, "changes", inspect->changes);
	number(object, "in_hand", inspect->in_hand);
	number(object, "groups_moving", a->groups_moving);
	counts = cJSON_AddObjectToObject(object, "counts");
	for (unsigned i = 0; i < AUDIT_KINDS; i++)
		number(counts, audit_kind_name((enum audit_kind)i), a->counts[i]);
	list = cJSON_AddArrayToObject(object, "findings");
	for (unsigned i = 0; i < a->findings_count; i++) {
		const struct audit_finding *f = &a->findings[i];
		cJSON *finding = cJSON_CreateObject();

		cJSON_AddStringToObject(finding, "kind", audit_kind_name(f->kind));
		cJSON_AddStringToObject(finding, "text", audit_describe(f, text, sizeof(text)));
		add_index(finding, "group", f->group);
		add_index(finding, "position", f->pos);
		add_index(finding, "slot", f->slot);
		add_index(finding, "spanset", f->ssid);
		add_index(finding, "other", f->other);
		add_index(finding, "page", f->page);
		number(finding, "count", f->count);
		cJSON_AddItemToArray(list, finding);
	}
}

static cJSON *root_object(const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;
	const struct catalog_header *h = a->catalog.header;
	uint32_t nodes = FM_MIN(atomic_load(&h->nodes_count), CATALOG_NODES_MAX);
	cJSON *root = cJSON_CreateObject(), *object;

	number(root, "pid", (uint64_t)inspect->pid);
	text_of(root, "command", h->command, sizeof(h->command));
	if (inspect->tree[0])
		cJSON_AddStringToObject(root, "tree", inspect->tree);
	cJSON_AddStringToObject(root, "scheme", config_scheme_name(a->scheme));
	number(root, "slot_bytes", a->slot_bytes);
	number(root, "code_k", a->code_k);
	number(root, "code_m", a->code_n - a->code_k);
	number(root, "region_bytes", h->region_bytes);
	number(root, "started_ns", h->started_ns);
	number(root, "agent_state", atomic_load(&h->agent_state));
	object = cJSON_AddArrayToObject(root, "nodes");
	for (uint32_t i = 0; i < nodes; i++)
		cJSON_AddItemToArray(object, node_object(inspect, i));
	add_groups(root, inspect);
	object = cJSON_AddObjectToObject(root, "spansets");
	for (unsigned i = RECORD_FREE; i <= RECORD_LIMBO; i++)
		number(object, inspect_record_state(i), a->records[i]);
	number(object, "never_used", (uint64_t)a->records_max - a->records_used);
	object = cJSON_AddObjectToObject(root, "pages");
	for (unsigned i = SPAN_EMPTY; i < AUDIT_SPAN_STATES; i++)
		number(object, inspect_span_state(i), a->words[i]);
	number(object, "near_with_far_copy", a->words_has_far);
	add_space(root, &a->space);
	add_check(root, inspect);
	return root;
}

static void print_record(
	FILE *out, uint32_t ssid, const struct audit_record *r, const struct audit_group *g)
{
	fprintf(out, "{\"spanset\":%u,\"state\":\"%s\",\"group\":%u,\"live\":[", ssid,
		inspect_record_state(record_hdr_state(r->hdr)), record_hdr_group(r->hdr));
	for (unsigned pos = 0; pos < g->k; pos++)
		fprintf(out, "%s%s", pos ? "," : "",
			(record_hdr_live(r->hdr) >> pos) & 1 ? "true" : "false");
	fprintf(out, "],\"pages\":[");
	for (unsigned pos = 0; pos < g->k; pos++) {
		if (r->owner[pos] == UINT32_MAX)
			fprintf(out, "%snull", pos ? "," : "");
		else
			fprintf(out, "%s%u", pos ? "," : "", r->owner[pos]);
	}
	fprintf(out, "],\"slots\":[");
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		fprintf(out, "%s%u", pos ? "," : "", r->slot[pos]);
	fprintf(out, "]}");
}

static void print_records(FILE *out, const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;
	bool any = false;

	for (uint32_t ssid = 0; ssid < a->records_used; ssid++) {
		struct audit_record r;
		uint32_t group;

		if (!audit_read_record(a, ssid, &r))
			continue;
		group = record_hdr_group(r.hdr);
		if (group >= a->groups_count || !a->groups[group].known)
			continue;
		fputs(any ? ",\n" : "", out);
		print_record(out, ssid, &r, &a->groups[group]);
		any = true;
	}
}

int inspect_print_json(FILE *out, const struct inspect *inspect)
{
	cJSON *root = root_object(inspect);
	char *text = cJSON_PrintUnformatted(root);

	cJSON_Delete(root);
	if (!text)
		return -ENOMEM;
	if (inspect->records) {
		text[strlen(text) - 1] = '\0'; /* the closing brace */
		fprintf(out, "%s,\"records\":[\n", text);
		print_records(out, inspect);
		fprintf(out, "\n]}\n");
	} else {
		fprintf(out, "%s\n", text);
	}
	free(text);
	return fflush(out) == 0 ? 0 : -errno;
}
