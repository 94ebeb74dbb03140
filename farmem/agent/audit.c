/*
 * farmem/agent/audit.c: see audit.h. This file: opening, groups (A3, A7), findings. Callers:
 * apps/farmem_inspect*.c, tests.
 *
 * Order of a look: groups and their counts -> records (audit_records.c) -> words (audit_words.c) ->
 * the counts again. What changed between the first and the last step is called moving.
 *
 * Invariants
 *   1. The program owns what we read: every index is checked against our own copy of its bound.
 *   2. Untouched parts of the tables are holes of the memfd; reading one through the mapping would
 *      allocate it, so words are walked by extents, records up to records_used.
 */
#include "farmem/agent/audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"

#define AUDIT_WATCH_NS NS_PER_MS
#define AUDIT_WATCHED_MAX 256u /* groups, in one look */

/* ---- findings ---- */

struct audit_finding audit_finding(enum audit_kind kind)
{
	return (struct audit_finding){
		kind, AUDIT_NONE, AUDIT_NONE, AUDIT_NONE, AUDIT_NONE, AUDIT_NONE, AUDIT_NONE, 1};
}

void audit_found(struct audit *audit, struct audit_finding finding)
{
	audit->counts[finding.kind] += finding.count;
	if (audit->findings_count < AUDIT_FINDINGS_MAX)
		audit->findings[audit->findings_count++] = finding;
}

static bool audit_same(const struct audit_finding *a, const struct audit_finding *b)
{
	return a->kind == b->kind && a->group == b->group && a->pos == b->pos &&
	       a->slot == b->slot && a->ssid == b->ssid && a->other == b->other &&
	       a->page == b->page;
}

void audit_keep(struct audit *audit, const struct audit_finding *earlier, unsigned count)
{
	unsigned kept = 0;
	memset(audit->counts, 0, sizeof(audit->counts));
	for (unsigned i = 0; i < audit->findings_count; i++) {
		struct audit_finding f = audit->findings[i];
		const struct audit_finding *before = NULL;
		for (unsigned j = 0; j < count && before == NULL; j++)
			if (audit_same(&f, &earlier[j]))
				before = &earlier[j];
		if (before == NULL)
			continue;
		f.count = FM_MIN(f.count, before->count);
		audit->counts[f.kind] += f.count;
		audit->findings[kept++] = f;
	}
	audit->findings_count = kept;
}

uint64_t audit_in_hand_slots(const struct audit *audit)
{
	return audit->counts[AUDIT_LIVE_LOOSE] + audit->counts[AUDIT_SLOT_UNCOUNTED] +
	       audit->counts[AUDIT_SLOT_TWICE] + audit->counts[AUDIT_SLOT_LEAKED];
}

uint64_t audit_in_hand(const struct audit *audit)
{
	/* A record in LIMBO whose slots are going back: others may take them meanwhile. */
	uint64_t returning = audit->counts[AUDIT_SLOT_UNCOUNTED] + audit->counts[AUDIT_SLOT_TWICE];
	return audit->counts[AUDIT_LIVE_LOOSE] + audit->counts[AUDIT_SLOT_LEAKED] +
	       (returning + audit->code_n - 1) / audit->code_n;
}

static const char *const kind_names[AUDIT_KINDS] = {
	[AUDIT_RECORD_WRONG] = "record-wrong",
	[AUDIT_SLOT_TWICE] = "slot-used-twice",
	[AUDIT_SLOT_LEAKED] = "slot-leaked",
	[AUDIT_SLOT_UNCOUNTED] = "slot-uncounted",
	[AUDIT_DOUBT_LOST] = "doubt-lost",
	[AUDIT_WORD_DANGLES] = "word-dangles",
	[AUDIT_WORD_FOREIGN] = "word-foreign",
	[AUDIT_LIVE_LOOSE] = "live-without-holder",
	[AUDIT_GROUP_WRONG] = "group-wrong",
};

const char *audit_kind_name(enum audit_kind kind)
{
	return kind_names[kind];
}

const char *audit_describe(const struct audit_finding *f, char *text, unsigned size)
{
	switch (f->kind) {
	case AUDIT_RECORD_WRONG:
		snprintf(text, size, "spanset %u names what does not exist", f->ssid);
		break;
	case AUDIT_SLOT_TWICE:
		if (f->ssid == AUDIT_NONE)
			snprintf(text, size,
				"slot %u of group %u, column %u: in a spanset, and taken for a "
				"merge",
				f->slot, f->group, f->pos);
		else
			snprintf(text, size,
				"slot %u of group %u, column %u: in spansets %u and %u", f->slot,
				f->group, f->pos, f->ssid, f->other);
		break;
	case AUDIT_SLOT_LEAKED:
		if (f->group == AUDIT_NONE)
			snprintf(text, size, "%llu slots in use, in no spanset, and not in doubt",
				(unsigned long long)f->count);
		else
			snprintf(text, size,
				"group %u, column %u: %llu slots in use, in no spanset", f->group,
				f->pos, (unsigned long long)f->count);
		break;
	case AUDIT_SLOT_UNCOUNTED:
		snprintf(text, size,
			"group %u, column %u: %llu slots of spansets are counted as free", f->group,
			f->pos, (unsigned long long)f->count);
		break;
	case AUDIT_DOUBT_LOST:
		snprintf(text, size, "%llu slots counted as doubtful are nowhere",
			(unsigned long long)f->count);
		break;
	case AUDIT_WORD_DANGLES:
		snprintf(text, size, "page %u names spanset %u, position %u: not live", f->page,
			f->ssid, f->pos);
		break;
	case AUDIT_WORD_FOREIGN:
		snprintf(text, size, "page %u names spanset %u, position %u: of another page",
			f->page, f->ssid, f->pos);
		break;
	case AUDIT_LIVE_LOOSE:
		snprintf(text, size, "spanset %u, position %u (page %u): live, but nobody holds it",
			f->ssid, f->pos, f->page);
		break;
	case AUDIT_GROUP_WRONG:
	default:
		snprintf(text, size, "group %u%s: its state and its columns disagree", f->group,
			f->pos == AUDIT_NONE ? "" : " (a column's repair)");
	}
	return text;
}

void audit_progress(struct audit *audit, uint64_t done)
{
	if (audit->progress)
		audit->progress(audit->context, done, audit->records_used + audit->range_pages);
}

/* ---- opening ---- */

/* Of a group with this k: as scheme_slot_bytes, of our own copies. */
static uint32_t audit_slot_bytes(const struct audit *audit, uint8_t k)
{
	return audit->scheme == SCHEME_SPLIT ? (uint32_t)FM_PAGE_SIZE / FM_MAX(k, (uint8_t)1)
					     : FM_PAGE_SIZE;
}

int audit_open(struct audit *audit, const struct catalog *catalog)
{
	struct catalog_header h = *catalog->header;
	const uint8_t *base = (const uint8_t *)catalog->header;
	memset(audit, 0, sizeof(*audit));
	audit->catalog = *catalog;
	if (h.code_k < 1 || h.code_k > EC_K_MAX || h.code_m > EC_M_MAX)
		return -EPROTO;
	audit->code_k = h.code_k;
	audit->code_n = h.code_k + h.code_m;
	audit->scheme = h.scheme;
	audit->slot_bytes = audit_slot_bytes(audit, (uint8_t)h.code_k);
	audit->record_stride = catalog_record_stride(h.code_k, h.code_m);
	audit->range_pages = h.range_pages;
	audit->records_max = h.records_max;
	audit->drops = h.evict_mode == EVICT_WP;
	/* Invariant 1, against a header that changed since it was attached. */
	uint64_t words_room =
		(uint64_t)(catalog->records - (const uint8_t *)catalog->words) / sizeof(uint64_t);
	uint64_t records_room =
		(catalog->bytes - (uint64_t)(catalog->records - base)) / audit->record_stride;
	if (audit->range_pages > words_room || audit->records_max > records_room)
		return -EPROTO;
	audit->groups = calloc(CATALOG_GROUPS_MAX, sizeof(*audit->groups));
	return audit->groups ? 0 : -ENOMEM;
}

static void audit_groups_free(struct audit *audit)
{
	for (uint32_t g = 0; audit->groups && g < audit->groups_count; g++) {
		free(audit->groups[g].bits);
		memset(&audit->groups[g], 0, sizeof(audit->groups[g]));
	}
	audit->groups_count = 0;
}

void audit_close(struct audit *audit)
{
	audit_groups_free(audit);
	free(audit->groups);
	audit->groups = NULL;
}

/* ---- groups ---- */

/* None of a group whose numbers make no sense. */
static unsigned audit_columns(const struct audit_group *g)
{
	return g->known ? (unsigned)g->k + g->m : 0;
}

static uint32_t audit_used(const struct audit *audit, uint32_t group, unsigned pos)
{
	return atomic_load_explicit(
		&audit->catalog.groups[group].columns[pos].used, memory_order_acquire);
}

/* A thread is storing into the group, or may be. */
static bool audit_storing(const struct audit *audit, uint32_t group)
{
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++)
		if (atomic_load_explicit(
			    &audit->catalog.threads[i].storing, memory_order_acquire) == group + 1)
			return true;
	return false;
}

static int audit_group_begin(struct audit *audit, uint32_t group)
{
	const struct catalog_group *from = &audit->catalog.groups[group];
	struct audit_group *g = &audit->groups[group];
	g->state = atomic_load_explicit(&from->state, memory_order_acquire);
	g->k = from->k;
	g->m = from->m;
	g->slot_count = from->slot_count;
	g->known = g->state != GROUP_NONE && g->k >= 1 && g->k <= audit->code_k &&
		   (uint32_t)g->k + g->m <= audit->code_n && g->m <= EC_M_MAX &&
		   g->slot_count <= CATALOG_SLOTS_MAX;
	if (!g->known)
		return 0;
	g->bits = calloc((size_t)(g->k + g->m), ((size_t)g->slot_count + 63) / 64 * 8 + 8);
	if (g->bits == NULL)
		return -ENOMEM;
	g->moving = audit_storing(audit, group);
	for (unsigned pos = 0; pos < audit_columns(g); pos++)
		g->used[pos] = audit_used(audit, group, pos);
	return 0;
}

/* A7. The agent changes these in an order that never shows the wrong picture for long. */
static void audit_group_columns(struct audit *audit, uint32_t group)
{
	const struct catalog_group *from = &audit->catalog.groups[group];
	const struct audit_group *g = &audit->groups[group];
	bool whole = true;
	for (unsigned pos = 0; pos < audit_columns(g); pos++) {
		struct audit_finding f = audit_finding(AUDIT_GROUP_WRONG);
		const struct catalog_column *column = &from->columns[pos];
		uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
		whole &= repair == 0 && !atomic_load(&column->lost);
		if (repair == 0)
			continue;
		const struct catalog_repair *r =
			&audit->catalog.repairs[(repair - 1) % CATALOG_REPAIRS_MAX];
		f.group = group;
		f.pos = pos;
		if (repair > CATALOG_REPAIRS_MAX || !atomic_load(&r->active) || r->group != group ||
			r->position != pos)
			audit_found(audit, f);
	}
	struct audit_finding f = audit_finding(AUDIT_GROUP_WRONG);
	f.group = group;
	if (!whole && atomic_load(&from->state) == GROUP_OPEN)
		audit_found(audit, f);
	for (unsigned pos = 0; pos < audit_columns(g); pos++)
		if (g->state == GROUP_RETIRED && g->used[pos] > 0) {
			audit_found(audit, f);
			break;
		}
}

/* ---- A3 ---- */

static bool audit_moved(const struct audit *audit, uint32_t group)
{
	const struct audit_group *g = &audit->groups[group];
	for (unsigned pos = 0; pos < audit_columns(g); pos++)
		if (audit_used(audit, group, pos) != g->used[pos])
			return true;
	return audit_storing(audit, group) ||
	       atomic_load(&audit->catalog.groups[group].state) != g->state;
}

static bool audit_differs(const struct audit_group *g)
{
	for (unsigned pos = 0; pos < audit_columns(g); pos++)
		if (g->used[pos] != g->named[pos])
			return true;
	return false;
}

/* As many slots given back as taken meanwhile look like none. So a group that seems to differ is
 * watched for a moment. */
static void audit_watch(struct audit *audit, uint32_t group)
{
	struct audit_group *g = &audit->groups[group];
	uint64_t until_ns = clock_now_ns() + AUDIT_WATCH_NS;
	while (!g->moving && clock_now_ns() < until_ns) {
		g->moving = audit_moved(audit, group);
		fm_cpu_relax();
	}
}

static void audit_group_end(struct audit *audit, uint32_t group)
{
	struct audit_group *g = &audit->groups[group];
	g->moving |= audit_moved(audit, group);
	if (!g->moving && audit_differs(g) && audit->groups_watched++ < AUDIT_WATCHED_MAX)
		audit_watch(audit, group);
	audit->groups_moving += g->moving;
	for (unsigned pos = 0; pos < audit_columns(g); pos++) {
		audit->space.used += g->used[pos];
		if (g->state != GROUP_RETIRED)
			audit->space.capacity += g->slot_count;
		if (g->moving && g->used[pos] > g->named[pos])
			audit->space.in_flight += g->used[pos] - g->named[pos];
	}
}

/* Bytes of slots that no record names, by column. */
static uint64_t audit_unnamed(struct audit *audit, bool tell)
{
	uint64_t total = 0;
	for (uint32_t i = 0; i < audit->groups_count; i++) {
		const struct audit_group *g = &audit->groups[i];
		for (unsigned pos = 0; pos < audit_columns(g) && !g->moving; pos++) {
			struct audit_finding f = audit_finding(AUDIT_SLOT_LEAKED);
			if (g->used[pos] <= g->named[pos])
				continue;
			f.group = i;
			f.pos = pos;
			f.count = g->used[pos] - g->named[pos];
			total += f.count * audit_slot_bytes(audit, g->k);
			if (tell)
				audit_found(audit, f);
		}
	}
	return total;
}

/* Bytes. */
static uint64_t audit_quarantined(const struct audit *audit)
{
	return atomic_load(&audit->catalog.stats->slots_quarantined_bytes);
}

/* The quarantine is a list in the runtime's own memory: here only its length is known. */
static void audit_leaks(struct audit *audit)
{
	uint64_t doubtful = audit_quarantined(audit);
	uint64_t unnamed = audit_unnamed(audit, false);
	struct audit_finding f;
	audit->space.quarantined = doubtful / audit->slot_bytes;
	if (doubtful != audit->quarantined_before)
		return;
	f = audit_finding(unnamed > doubtful ? AUDIT_SLOT_LEAKED : AUDIT_DOUBT_LOST);
	f.count =
		(unnamed > doubtful ? unnamed - doubtful : doubtful - unnamed) / audit->slot_bytes;
	if (unnamed > 0 && doubtful == 0)
		(void)audit_unnamed(audit, true);
	else if (unnamed > doubtful || (unnamed < doubtful && audit->groups_moving == 0))
		audit_found(audit, f);
}

static void audit_uncounted(struct audit *audit, uint32_t group)
{
	const struct audit_group *g = &audit->groups[group];
	for (unsigned pos = 0; pos < audit_columns(g) && !g->moving; pos++) {
		struct audit_finding f = audit_finding(AUDIT_SLOT_UNCOUNTED);
		if (g->named[pos] <= g->used[pos])
			continue;
		f.group = group;
		f.pos = pos;
		f.count = g->named[pos] - g->used[pos];
		audit_found(audit, f);
	}
}

static void audit_forget(struct audit *audit)
{
	audit_groups_free(audit);
	memset(audit->words, 0, sizeof(audit->words));
	memset(audit->records, 0, sizeof(audit->records));
	memset(audit->counts, 0, sizeof(audit->counts));
	memset(&audit->space, 0, sizeof(audit->space));
	audit->words_has_far = audit->words_changed = audit->records_changed = 0;
	audit->findings_count = audit->groups_moving = audit->groups_watched = 0;
}

int audit_look(struct audit *audit)
{
	const struct catalog_header *h = audit->catalog.header;
	int rc = 0;
	audit_forget(audit);
	audit->quarantined_before = audit_quarantined(audit);
	audit_merges_begin(audit);
	audit->groups_count = FM_MIN(atomic_load(&h->groups_count), CATALOG_GROUPS_MAX);
	for (uint32_t g = 0; g < audit->groups_count && rc == 0; g++)
		rc = audit_group_begin(audit, g);
	if (rc != 0)
		return rc;
	/* After the counts: a record that comes later is of a group that is moving. */
	audit->records_used = FM_MIN(
		atomic_load_explicit(&h->records_used, memory_order_acquire), audit->records_max);
	audit_records(audit);
	audit_merges_name(audit);
	audit_words(audit);
	audit_merges_moving(audit);
	for (uint32_t g = 0; g < audit->groups_count; g++) {
		audit_group_columns(audit, g);
		audit_group_end(audit, g);
		audit_uncounted(audit, g);
	}
	audit_leaks(audit);
	audit->looks++;
	return 0;
}
