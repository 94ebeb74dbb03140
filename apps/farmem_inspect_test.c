/*
 * apps/farmem_inspect_test.c: what inspect says of a made-up catalog, in words and as JSON.
 */
#include <cJSON.h>
#include <stdlib.h>

#include "apps/farmem_inspect.h"
#include "base/clock.h"
#include "base/test.h"

static struct catalog catalog;
static struct inspect inspect;

static void column_set(uint32_t group, unsigned pos, uint16_t node)
{
	struct catalog_place *place = catalog.groups[group].columns[pos].places;

	place->node = node;
	place->capability.lease = 40 + pos;
	memcpy(place->capability.key, "KEYKEYKEYKEYKEYK", 16);
}

static void record_make(uint32_t ssid, uint32_t group, uint32_t live, enum record_state state)
{
	struct record r = {catalog.records + (uint64_t)ssid * catalog.header->record_stride, 2, 3};

	for (unsigned pos = 0; pos < 3; pos++) {
		uint8_t *b = record_slot_bytes(r, pos);

		/* slot number: ssid, for each position */
		b[pos % 2 ? 3 : 0] = (uint8_t)(pos % 2 ? ssid >> 4 : ssid);
		if (pos % 2)
			b[2] = (uint8_t)((b[2] & 15) | (ssid << 4));
		if (pos < 2)
			record_set_owner(r, pos, 10 * ssid + pos);
	}
	atomic_store(record_hdr(r), ((uint64_t)state << RECORD_STATE_SHIFT) |
					    ((uint64_t)group << RECORD_GROUP_SHIFT) |
					    ((uint64_t)live << RECORD_LIVE_SHIFT));
	for (uint32_t pos = 0; pos < 2; pos++)
		if (live & (1u << pos))
			atomic_store(&catalog.words[10 * ssid + pos],
				span_at(span_make(SPAN_FAR, 0, 1), ssid, pos).v);
	for (unsigned pos = 0; pos < 3; pos++)
		atomic_fetch_add(&catalog.groups[group].columns[pos].used, 1);
	atomic_store(&catalog.header->records_used, ssid + 1);
}

/* Group 0: 2+1, its column 1 lost with node "b" and being rebuilt on "d", half done. */
static void world_open(void)
{
	const struct catalog_options options = {.range_base = 1ull << 40,
		.range_pages = 1000,
		.records_max = 100,
		.code_k = 2,
		.code_m = 1,
		.region_bytes = 1 << 20,
		.command = "tiny\033[31mred"};
	static const char *const names[] = {"a", "b", "c", "d"};

	CHECK_EQ(catalog_create(&catalog, &options), 0);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(catalog.nodes[i].name, sizeof(catalog.nodes[i].name), "%s", names[i]);
		catalog.nodes[i].incarnation = 0x1111111111111111ull * (i + 1);
		atomic_store(&catalog.nodes[i].state, i == 1 ? NODE_DOWN : NODE_UP);
	}
	atomic_store(&catalog.header->nodes_count, 4);
	catalog.groups[0].k = 2;
	catalog.groups[0].m = 1;
	catalog.groups[0].slot_count = 256;
	atomic_store(&catalog.groups[0].state, GROUP_CLOSED);
	atomic_store(&catalog.header->groups_count, 1);
	for (unsigned pos = 0; pos < 3; pos++)
		column_set(0, pos, (uint16_t)pos);
	record_make(0, 0, 3, RECORD_STABLE);
	record_make(1, 0, 2, RECORD_STABLE);
	catalog.groups[0].columns[1].places[1].node = 3;
	memcpy(catalog.groups[0].columns[1].places[1].capability.key, "KEYKEYKEYKEYKEYK", 16);
	atomic_store(&catalog.groups[0].columns[1].lost, 1);
	catalog.repairs[4].group = 0;
	catalog.repairs[4].position = 1;
	catalog.repairs[4].kind = REPAIR_DECODE;
	atomic_store(&catalog.repairs[4].done_count, 1024);
	atomic_store(&catalog.repairs[4].total_count, 2048);
	atomic_store(&catalog.repairs[4].started_ns, 100 * NS_PER_S);
	atomic_store(&catalog.repairs[4].active, 1);
	atomic_store(&catalog.groups[0].columns[1].repair, 5);
	inspect = (struct inspect){.pid = 77, .groups = true, .now_ns = 102 * NS_PER_S};
	CHECK_EQ(audit_open(&inspect.audit, &catalog), 0);
}

static char *look_and_print(bool json)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	CHECK_EQ(audit_look(&inspect.audit), 0);
	inspect.consistent = inspect.audit.findings_count == 0;
	CHECK_EQ(json ? inspect_print_json(out, &inspect) : inspect_print_words(out, &inspect), 0);
	fclose(out);
	return text;
}

static void world_close(void)
{
	audit_close(&inspect.audit);
	catalog_close(&catalog);
}

static const cJSON *at(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	CHECK(item != NULL);
	return item;
}

TEST(the_words_tell_nodes_groups_columns_and_how_a_repair_goes)
{
	world_open();
	char *text = look_and_print(false);

	CHECK_CONTAINS(text, "77 tiny?[31mred  (no agent answers)  batch-remote, code 2+1");
	CHECK_CONTAINS(text, "b                    down");
	CHECK_CONTAINS(text, "groups     0 open, 1 closed; columns: 1 lost, 1 being rebuilt, 0");
	CHECK_CONTAINS(text, "group 0: 2+1, closed, 2 spansets, 3 live pages");
	CHECK_CONTAINS(text,
		"column 1  b                    2 of 256 slots, LOST, being rebuilt on "
		"d: 50.0 %, 2.0 MiB/s, 2 s left");
	CHECK_CONTAINS(text, "spansets   2 stable");
	CHECK_CONTAINS(text, "pages      0 near, 3 far");
	CHECK_CONTAINS(text, "check      consistent (running, 1 looks)");
	CHECK(strstr(text, "KEYKEY") == NULL);
	CHECK(strstr(text, "spanset 0:") == NULL); /* only when asked for */
	free(text);
	inspect.records = true;
	text = look_and_print(false);
	CHECK_CONTAINS(text, "spanset 0: stable, group 0, pages 0, 1; slots 0 0 0\n");
	CHECK_CONTAINS(text, "spanset 1: stable, group 0, pages 10 dead, 11; slots 1 1 1\n");
	free(text);
	world_close();
}

TEST(the_json_says_the_same_and_holds_no_key)
{
	world_open();
	inspect.records = true;
	char *text = look_and_print(true);
	cJSON *root = cJSON_Parse(text);
	const cJSON *group, *column;

	CHECK(root != NULL);
	CHECK(strstr(text, "KEYKEY") == NULL);
	CHECK(strstr(text, "4b45594b") == NULL); /* in hexadecimal */
	CHECK(cJSON_IsTrue(at(at(root, "check"), "consistent")));
	CHECK_STR_EQ(at(cJSON_GetArrayItem(at(root, "nodes"), 2), "incarnation")->valuestring,
		"3333333333333333");
	CHECK_EQ(at(at(root, "groups"), "columns_lost")->valueint, 1);
	group = cJSON_GetArrayItem(at(at(root, "groups"), "list"), 0);
	CHECK_EQ(at(at(group, "spansets"), "stable")->valueint, 2);
	column = cJSON_GetArrayItem(at(group, "columns"), 1);
	CHECK(cJSON_IsTrue(at(column, "lost")));
	CHECK_EQ(at(at(column, "cur"), "lease")->valueint, 41);
	CHECK_EQ(at(at(column, "next"), "node")->valueint, 3);
	CHECK_STR_EQ(at(at(column, "next"), "kind")->valuestring, "decode");
	CHECK_EQ(at(at(column, "next"), "seconds_left")->valueint, 2);
	CHECK_EQ(at(at(root, "slots"), "live")->valueint, 3);
	CHECK_EQ(at(at(root, "slots"), "dead")->valueint, 1);
	CHECK_EQ(cJSON_GetArraySize(at(root, "records")), 2);
	CHECK_EQ(at(cJSON_GetArrayItem(at(root, "records"), 1), "spanset")->valueint, 1);
	cJSON_Delete(root);
	free(text);
	world_close();
}

TEST(what_is_wrong_is_listed_and_named)
{
	world_open();
	atomic_store(&catalog.words[11], span_make(SPAN_EMPTY, 0, 1).v);
	atomic_fetch_add(&catalog.groups[0].columns[2].used, 3);
	char *text = look_and_print(false);

	CHECK_CONTAINS(text, "check      INCONSISTENT");
	CHECK_CONTAINS(text, "spanset 1, position 1 (page 11): live, but nobody holds it");
	CHECK_CONTAINS(text, "group 0, column 2: 3 slots in use, in no spanset");
	free(text);
	text = look_and_print(true);
	cJSON *root = cJSON_Parse(text);
	const cJSON *check = at(root, "check");

	CHECK(cJSON_IsFalse(at(check, "consistent")));
	CHECK_EQ(at(at(check, "counts"), "slot-leaked")->valueint, 3);
	CHECK_EQ(at(at(check, "counts"), "live-without-holder")->valueint, 1);
	CHECK_EQ(cJSON_GetArraySize(at(check, "findings")), 2);
	cJSON_Delete(root);
	free(text);
	world_close();
}

TEST(nonsense_in_a_catalog_is_printed_never_fatal)
{
	uint64_t random = 11;

	world_open();
	inspect.records = true;
	for (unsigned round = 0; round < 300; round++) {
		uint8_t *tables[] = {(uint8_t *)catalog.nodes, (uint8_t *)catalog.groups,
			(uint8_t *)catalog.repairs, catalog.records, (uint8_t *)catalog.words};

		for (unsigned i = 0; i < 40; i++)
			tables[test_random(&random) % 5][test_random(&random) % 2048] =
				(uint8_t)test_random(&random);
		atomic_store(&catalog.header->groups_count, (uint32_t)test_random(&random) % 8);
		free(look_and_print(round % 2));
	}
	world_close();
}
