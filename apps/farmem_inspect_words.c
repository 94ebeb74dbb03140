/*
 * apps/farmem_inspect_words.c: a catalog and what its audit found, as lines of text.
 *
 * Everything comes from memory that the program can write: texts are made printable, numbers are
 * bounded by the audit. Keys of capabilities are never looked at.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "apps/farmem_inspect.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/options.h"

/* --- names --------------------------------------------------------------------------------------
 */

const char *inspect_text(const char *from, unsigned length, char *text, unsigned size)
{
	unsigned i;

	for (i = 0; i < length && i + 1 < size && from[i]; i++)
		text[i] = isprint((unsigned char)from[i]) && from[i] != '"' ? from[i] : '?';
	text[i] = '\0';
	return text;
}

const char *inspect_group_state(uint32_t state)
{
	static const char *const names[] = {"none", "open", "closed", "evacuate", "retired"};

	return state < FM_ARRAY_COUNT(names) ? names[state] : "impossible";
}

const char *inspect_node_state(uint32_t state)
{
	static const char *const names[] = {"none", "up", "suspect", "down"};

	return state < FM_ARRAY_COUNT(names) ? names[state] : "impossible";
}

const char *inspect_record_state(unsigned state)
{
	static const char *const names[] = {"free", "filling", "stable", "claimed", "limbo"};

	return state < FM_ARRAY_COUNT(names) ? names[state] : "impossible";
}

const char *inspect_span_state(unsigned state)
{
	static const char *const names[] = {
		"empty", "near", "evicting", "dropping", "far", "fetching", "lost"};

	return state < FM_ARRAY_COUNT(names) ? names[state] : "impossible";
}

static const char *pages(uint64_t count, char text[32])
{
	return format_bytes(count * FM_PAGE_SIZE, text, 32);
}

static const char *slots(const struct inspect *inspect, uint64_t count, char text[32])
{
	return format_bytes(count * inspect->audit.slot_bytes, text, 32);
}

static const char *agent_text(uint32_t state)
{
	return state == 1 ? "serving" : state == 2 ? "no node can lend more" : "none yet";
}

/* --- groups -------------------------------------------------------------------------------------
 */

struct inspect_repair inspect_repair(const struct inspect *inspect, uint32_t group, unsigned pos)
{
	const struct catalog *c = &inspect->audit.catalog;
	const struct catalog_column *column = &c->groups[group].columns[pos];
	uint32_t index = atomic_load_explicit(&column->repair, memory_order_acquire);
	struct inspect_repair repair = {.active = false, .seconds = -1};
	const struct catalog_repair *r;
	double ran;

	if (index == 0 || index > CATALOG_REPAIRS_MAX)
		return repair;
	r = &c->repairs[index - 1];
	repair.active = true;
	repair.copies = r->kind == REPAIR_COPY;
	repair.next = (r->generation + 1) & 1;
	repair.node = column->places[repair.next].node % CATALOG_NODES_MAX;
	repair.done = atomic_load_explicit(&r->done_count, memory_order_relaxed);
	repair.total = atomic_load_explicit(&r->total_count, memory_order_relaxed);
	repair.started_ns = atomic_load_explicit(&r->started_ns, memory_order_relaxed);
	repair.share = repair.total ? (double)repair.done / (double)repair.total : 0;
	repair.share = FM_MIN(repair.share, 1.0);
	if (inspect->now_ns <= repair.started_ns || repair.done == 0)
		return repair;
	ran = (double)(inspect->now_ns - repair.started_ns) / NS_PER_S;
	repair.rate = (double)repair.done * FM_PAGE_SIZE / ran;
	if (repair.total >= repair.done)
		repair.seconds = (double)(repair.total - repair.done) * ran / (double)repair.done;
	return repair;
}

struct inspect_groups inspect_groups(const struct inspect *inspect)
{
	const struct audit *audit = &inspect->audit;
	struct inspect_groups sum = {.lost = 0};

	for (uint32_t i = 0; i < audit->groups_count; i++) {
		const struct audit_group *g = &audit->groups[i];

		sum.states[FM_MIN(g->state, FM_ARRAY_COUNT(sum.states) - 1)]++;
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m && g->known; pos++) {
			const struct catalog_column *column =
				&audit->catalog.groups[i].columns[pos];
			struct inspect_repair repair = inspect_repair(inspect, i, pos);

			if (g->state == GROUP_RETIRED)
				continue;
			sum.lost += atomic_load(&column->lost) != 0;
			sum.repairing += repair.active && !repair.copies;
			sum.draining += repair.active && repair.copies;
		}
	}
	return sum;
}

static const char *node_name(const struct inspect *inspect, uint32_t node, char text[64])
{
	return inspect_text(inspect->audit.catalog.nodes[node % CATALOG_NODES_MAX].name,
		sizeof(inspect->audit.catalog.nodes[0].name), text, 64);
}

static void print_column(FILE *out, const struct inspect *inspect, uint32_t group, unsigned pos)
{
	const struct audit_group *g = &inspect->audit.groups[group];
	const struct catalog_column *column = &inspect->audit.catalog.groups[group].columns[pos];
	struct inspect_repair repair = inspect_repair(inspect, group, pos);
	char name[64], rate[32];

	fprintf(out, "    column %-2u %-20s %u of %u slots", pos,
		node_name(inspect, catalog_column_node(column), name), g->used[pos], g->slot_count);
	if (g->used[pos] != g->named[pos])
		fprintf(out, ", %u in spansets", g->named[pos]);
	if (atomic_load(&column->generation))
		fprintf(out, ", replaced %u times", atomic_load(&column->generation));
	if (atomic_load(&column->lost))
		fprintf(out, ", LOST");
	if (repair.active)
		fprintf(out, ", being %s on %s: %.1f %%, %s/s",
			repair.copies ? "copied" : "rebuilt", node_name(inspect, repair.node, name),
			100 * repair.share,
			format_bytes((uint64_t)repair.rate, rate, sizeof(rate)));
	if (repair.active && repair.seconds >= 0)
		fprintf(out, ", %.0f s left", repair.seconds);
	fputc('\n', out);
}

static void print_groups(FILE *out, const struct inspect *inspect)
{
	const struct audit *audit = &inspect->audit;
	struct inspect_groups sum = inspect_groups(inspect);

	fprintf(out, "groups     ");
	for (unsigned state = GROUP_OPEN; state < FM_ARRAY_COUNT(sum.states); state++)
		if (sum.states[state] || state == GROUP_OPEN)
			fprintf(out, "%s%u %s", state > GROUP_OPEN ? ", " : "", sum.states[state],
				inspect_group_state(state));
	fprintf(out, "; columns: %u lost, %u being rebuilt, %u being moved\n", sum.lost,
		sum.repairing, sum.draining);
	for (uint32_t i = 0; i < audit->groups_count && inspect->groups; i++) {
		const struct audit_group *g = &audit->groups[i];

		fprintf(out, "  group %u: %u+%u, %s, %u spansets, %u live pages\n", i, g->k, g->m,
			inspect_group_state(g->state),
			g->records[RECORD_STABLE] + g->records[RECORD_CLAIMED], g->live);
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m && g->known; pos++)
			print_column(out, inspect, i, pos);
	}
}

/* --- the rest -----------------------------------------------------------------------------------
 */

static void print_head(FILE *out, const struct inspect *inspect)
{
	const struct catalog_header *h = inspect->audit.catalog.header;
	char command[65], range[32], region[32], ran[32];
	uint64_t started_ns = FM_MIN(h->started_ns, inspect->now_ns);

	fprintf(out, "%lld %s  (%s%s)  %s, code %u+%u, %s, agent: %s\n", (long long)inspect->pid,
		inspect_text(h->command, sizeof(h->command), command, sizeof(command)),
		inspect->tree[0] ? "tree " : "no agent answers", inspect->tree,
		config_scheme_name(inspect->audit.scheme), inspect->audit.code_k,
		inspect->audit.code_n - inspect->audit.code_k,
		h->evict_mode == EVICT_WP ? "without MOVE" : "with MOVE",
		agent_text(atomic_load(&h->agent_state)));
	fprintf(out, "range      %s at 0x%llx, regions of %s, running for %s\n",
		pages(inspect->audit.range_pages, range), (unsigned long long)h->range_base,
		format_bytes(h->region_bytes, region, sizeof(region)),
		format_duration(inspect->now_ns - started_ns, ran, sizeof(ran)));
}

static void print_nodes(FILE *out, const struct inspect *inspect)
{
	const struct catalog *c = &inspect->audit.catalog;
	uint32_t count = FM_MIN(atomic_load(&c->header->nodes_count), CATALOG_NODES_MAX);
	char name[64], lends[32], has[32];

	for (uint32_t i = 0; i < count; i++) {
		const struct catalog_node *node = &c->nodes[i];
		uint32_t state = atomic_load(&node->state);

		fprintf(out, "node %-5u %-20s %-8s incarnation %08llx", i,
			node_name(inspect, i, name), inspect_node_state(state),
			(unsigned long long)node->incarnation & 0xffffffff);
		if (state != NODE_DOWN)
			fprintf(out, ", lends %s of %s",
				format_bytes(
					atomic_load(&node->leased_bytes), lends, sizeof(lends)),
				format_bytes(atomic_load(&node->memory_bytes), has, sizeof(has)));
		fprintf(out, "%s\n", atomic_load(&node->draining) ? ", draining" : "");
	}
}

static void print_counts(FILE *out, const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;

	fprintf(out, "spansets  ");
	for (unsigned i = RECORD_STABLE; i < AUDIT_RECORD_STATES; i++)
		if (a->records[i] || i == RECORD_STABLE)
			fprintf(out, " %llu %s,", (unsigned long long)a->records[i],
				inspect_record_state(i));
	fprintf(out, " %llu being filled, %llu free for use again, %llu never used\n",
		(unsigned long long)a->records[RECORD_FILLING],
		(unsigned long long)a->records[RECORD_FREE],
		(unsigned long long)a->records_max - a->records_used);
	fprintf(out, "pages     ");
	for (unsigned i = SPAN_NEAR; i < AUDIT_SPAN_STATES; i++)
		if (a->words[i] || i == SPAN_NEAR || i == SPAN_FAR)
			fprintf(out, "%s %llu %s", i > SPAN_NEAR ? "," : "",
				(unsigned long long)a->words[i], inspect_span_state(i));
	fprintf(out, ", the others empty\n");
}

static void print_space(FILE *out, const struct inspect *inspect)
{
	const struct audit_space *s = &inspect->audit.space;
	const struct {
		const char *name;
		uint64_t slots;
		const char *means;
	} rows[] = {
		{"live", s->far, "the only copy"},
		{"retained", s->retained, "duplicates of near pages"},
		{"on the way", s->staged + s->repacked,
			"of pages being evicted, rescued, repacked"},
		{"dead", s->dead, "nobody needs them, parity covers them"},
		{"parity", s->parity, ""},
		{"limbo", s->limbo, "free when their last reader is gone"},
		{"quarantine", s->quarantined, "a late write may still land there"},
		{"in flight", s->in_flight, "taken for batches being stored"},
		{"held by none", s->loose, ""},
	};
	char used[32], capacity[32], text[32];

	fprintf(out, "space      %s of %s leased is in use:\n", slots(inspect, s->used, used),
		slots(inspect, s->capacity, capacity));
	for (unsigned i = 0; i < FM_ARRAY_COUNT(rows); i++)
		if (rows[i].slots || i == 0)
			fprintf(out, "  %-12s %12s  %10llu slots  %s\n", rows[i].name,
				slots(inspect, rows[i].slots, text),
				(unsigned long long)rows[i].slots, rows[i].means);
}

static void print_check(FILE *out, const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;
	unsigned shown = FM_MIN(a->findings_count, INSPECT_SHOWN_MAX);
	uint64_t sum = 0;
	char text[200];

	for (unsigned i = 0; i < AUDIT_KINDS; i++)
		sum += a->counts[i];
	fprintf(out, "check      %s", inspect->consistent ? "consistent" : "INCONSISTENT");
	if (inspect->stopped)
		fprintf(out, " (stopped, exact");
	else
		fprintf(out, " (running, %u looks", a->looks);
	if (inspect->stopped && sum > 0 && inspect->consistent)
		fprintf(out, "; in the hands of %llu threads: %llu",
			(unsigned long long)inspect->in_hand, (unsigned long long)sum);
	if (inspect->changes)
		fprintf(out, ", %llu changes seen under way", (unsigned long long)inspect->changes);
	if (a->groups_moving)
		fprintf(out, "; slots of %u groups not counted: being stored into or freed",
			a->groups_moving);
	fprintf(out, ")\n");
	for (unsigned i = 0; i < shown; i++)
		fprintf(out, "  %s\n", audit_describe(&a->findings[i], text, sizeof(text)));
	if (a->findings_count > shown)
		fprintf(out, "  and %u more\n", a->findings_count - shown);
}

static void print_record(
	FILE *out, uint32_t ssid, const struct audit_record *r, const struct audit_group *g)
{
	fprintf(out, "spanset %u: %s, group %u, pages", ssid,
		inspect_record_state(record_hdr_state(r->hdr)), record_hdr_group(r->hdr));
	for (unsigned pos = 0; pos < g->k; pos++) {
		const char *live = (record_hdr_live(r->hdr) >> pos) & 1 ? "" : " dead";

		if (r->owner[pos] == UINT32_MAX)
			fprintf(out, "%s filler", pos ? "," : "");
		else
			fprintf(out, "%s %u%s", pos ? "," : "", r->owner[pos], live);
	}
	fprintf(out, "; slots");
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		fprintf(out, " %u", r->slot[pos]);
	fputc('\n', out);
}

static void print_records(FILE *out, const struct inspect *inspect)
{
	const struct audit *a = &inspect->audit;

	for (uint32_t ssid = 0; ssid < a->records_used; ssid++) {
		struct audit_record r;
		uint32_t group;

		if (!audit_read_record(a, ssid, &r))
			continue;
		group = record_hdr_group(r.hdr);
		if (group < a->groups_count && a->groups[group].known)
			print_record(out, ssid, &r, &a->groups[group]);
	}
}

int inspect_print_words(FILE *out, const struct inspect *inspect)
{
	print_head(out, inspect);
	print_nodes(out, inspect);
	print_groups(out, inspect);
	print_counts(out, inspect);
	print_space(out, inspect);
	print_check(out, inspect);
	if (inspect->records)
		print_records(out, inspect);
	return fflush(out) == 0 ? 0 : -errno;
}
