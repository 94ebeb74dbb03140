/*
 * farmem/agent/audit_records.c: the records of all spansets: what they name exists (A1), no slot
 * twice (A2), every live position has its holder (A5, A6). Called by audit_look.
 *
 * A record is copied between two looks at its hdr; its fields are immutable from STABLE to LIMBO
 * (record.h R1), and gen tells one use from the next.
 */
#include "farmem/agent/audit.h"

#include "base/assert.h"

#define RECORDS_PROGRESS 4096u
#define RECORDS_RETRIES 16
#define GEN_MASK 0xffffull
#define AUDIT_RECORD_BYTES_MAX 320u

FM_BUILD_ASSERT(8 + 4 * EC_K_MAX + 4 * EC_N_MAX + (20 * EC_N_MAX + 7) / 8 <= AUDIT_RECORD_BYTES_MAX,
	"the widest record fits");

static struct record records_at(const struct audit *audit, uint32_t ssid)
{
	return (struct record){audit->catalog.records + (uint64_t)ssid * audit->record_stride,
		(uint8_t)audit->code_k, (uint8_t)audit->code_n};
}

static bool records_readable(uint64_t hdr)
{
	enum record_state state = record_hdr_state(hdr);
	return state != RECORD_FREE && state != RECORD_FILLING;
}

/* The same use of it: only state and live may differ. */
static bool records_same_use(uint64_t a, uint64_t b)
{
	return records_readable(a) && records_readable(b) && (a & GEN_MASK) == (b & GEN_MASK) &&
	       record_hdr_group(a) == record_hdr_group(b);
}

/*
 * The runtime fills a record with plain stores, and may do so while we copy: then hdr tells, and
 * the copy is thrown away. TSan knows nothing of that.
 */
__attribute__((no_sanitize("thread"))) static void records_copy(
	struct record from, uint64_t *words, uint32_t stride)
{
	const _Atomic uint64_t *source = record_hdr(from);
	for (uint32_t i = 0; i < stride / sizeof(uint64_t); i++)
		words[i] = atomic_load_explicit(&source[i], memory_order_relaxed);
}

bool audit_read_record(const struct audit *audit, uint32_t ssid, struct audit_record *record)
{
	const struct record from = records_at(audit, ssid);
	uint64_t words[AUDIT_RECORD_BYTES_MAX / sizeof(uint64_t)];
	struct record r = {(uint8_t *)words, from.k, from.n};
	for (unsigned i = 0; i < RECORDS_RETRIES; i++) {
		uint64_t before = record_load(from);
		record->hdr = before;
		if (!records_readable(before))
			return false;
		records_copy(from, words, audit->record_stride);
		atomic_thread_fence(memory_order_acquire);
		record->hdr = record_load(from);
		if (!records_same_use(before, record->hdr))
			continue;
		for (unsigned pos = 0; pos < audit->code_k; pos++)
			record->owner[pos] = record_owner(r, pos);
		for (unsigned pos = 0; pos < audit->code_n; pos++) {
			record->crc[pos] = record_crc(r, pos);
			record->slot[pos] = record_slot(r, pos);
		}
		return true;
	}
	return false;
}

/* Four bytes of a record, for the words: there are more of those. */
__attribute__((no_sanitize("thread"))) static uint32_t records_peek(
	struct record from, unsigned offset)
{
	return atomic_load_explicit((const _Atomic uint32_t *)(const void *)(from.bytes + offset),
		memory_order_relaxed);
}

bool audit_read_owner(
	const struct audit *audit, uint32_t ssid, unsigned pos, uint64_t *hdr, uint32_t *owner)
{
	const struct record from = records_at(audit, ssid);
	for (unsigned i = 0; i < RECORDS_RETRIES; i++) {
		uint64_t before = record_load(from);
		if (!records_readable(before))
			return false;
		*owner = records_peek(from, 8 + 4 * pos); /* record_owner */
		atomic_thread_fence(memory_order_acquire);
		*hdr = record_load(from);
		if (records_same_use(before, *hdr))
			return true;
	}
	return false;
}

/* ---- A1 ---- */

static bool records_make_sense(const struct audit *audit, const struct audit_record *r)
{
	uint32_t group = record_hdr_group(r->hdr);
	if (group >= audit->groups_count || !audit->groups[group].known)
		return false;
	const struct audit_group *g = &audit->groups[group];
	if (record_hdr_live(r->hdr) >> (audit->scheme == SCHEME_SPLIT ? 1 : g->k) != 0)
		return false;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (r->slot[pos] >= g->slot_count)
			return false;
	for (unsigned pos = 0; pos < g->k; pos++) {
		bool live = (record_hdr_live(r->hdr) >> pos) & 1;
		if (r->owner[pos] >= audit->range_pages && (live || r->owner[pos] != UINT32_MAX))
			return false;
	}
	return true;
}

/* ---- A2 ---- */

static uint64_t *records_bits(const struct audit_group *g, unsigned pos, uint32_t slot)
{
	return &g->bits[pos * (((size_t)g->slot_count + 63) / 64) + slot / 64];
}

void audit_name_slot(
	struct audit *audit, uint32_t group, unsigned pos, uint32_t slot, uint32_t ssid)
{
	struct audit_group *g = &audit->groups[group];
	uint64_t *bits = records_bits(g, pos, slot);
	uint64_t bit = 1ull << (slot % 64);
	if (*bits & bit) {
		struct audit_finding f = audit_finding(AUDIT_SLOT_TWICE);
		f.group = group;
		f.pos = pos;
		f.slot = slot;
		f.ssid = ssid;
		audit_found(audit, f);
		return;
	}
	*bits |= bit;
	g->named[pos]++;
}

static void records_name_slots(struct audit *audit, uint32_t ssid, const struct audit_record *r)
{
	uint32_t group = record_hdr_group(r->hdr);
	const struct audit_group *g = &audit->groups[group];
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		audit_name_slot(audit, group, pos, r->slot[pos], ssid);
}

static bool records_names(
	const struct audit *audit, const struct audit_record *r, const struct audit_finding *f)
{
	return record_hdr_group(r->hdr) == f->group && f->pos < audit->code_n &&
	       r->slot[f->pos] == f->slot;
}

/* The first record that names the slot; the second one was found. One pass for all of them. */
static void records_find_others(struct audit *audit)
{
	struct audit_record r;
	for (uint32_t ssid = 0; ssid < audit->records_used; ssid++) {
		if (!audit_read_record(audit, ssid, &r))
			continue;
		for (unsigned i = 0; i < audit->findings_count; i++) {
			struct audit_finding *f = &audit->findings[i];
			if (f->kind == AUDIT_SLOT_TWICE && f->other == AUDIT_NONE &&
				ssid != f->ssid && records_names(audit, &r, f))
				f->other = ssid;
		}
	}
}

/* A merged spanset and the one its slot came from (A2). */
static bool records_share(const struct audit_group *g, const struct audit_finding *f,
	const struct audit_record *one, const struct audit_record *other)
{
	bool both_stable = record_hdr_state(one->hdr) == RECORD_STABLE &&
			   record_hdr_state(other->hdr) == RECORD_STABLE;
	bool both_limbo = record_hdr_state(one->hdr) == RECORD_LIMBO &&
			  record_hdr_state(other->hdr) == RECORD_LIMBO;
	return f->pos < g->k && !both_stable && !both_limbo &&
	       one->owner[f->pos] == other->owner[f->pos] && one->crc[f->pos] == other->crc[f->pos];
}

/* A slot that went from one record to another while we looked was never in both. */
static bool records_twice(const struct audit *audit, const struct audit_finding *f)
{
	struct audit_record one, other;
	return f->other != AUDIT_NONE && f->ssid != AUDIT_NONE &&
	       audit_read_record(audit, f->ssid, &one) && records_names(audit, &one, f) &&
	       audit_read_record(audit, f->other, &other) && records_names(audit, &other, f) &&
	       !records_share(&audit->groups[f->group], f, &one, &other);
}

/* Those that there was no room for are taken for what the others are. */
static void records_confirm_twice(struct audit *audit)
{
	unsigned kept = 0, real = 0;
	if (audit->counts[AUDIT_SLOT_TWICE] == 0)
		return;
	records_find_others(audit);
	for (unsigned i = 0; i < audit->findings_count; i++) {
		const struct audit_finding *f = &audit->findings[i];
		bool twice = f->kind == AUDIT_SLOT_TWICE;
		if (twice && !records_twice(audit, f))
			continue;
		if (twice) { /* taken twice, so counted twice */
			audit->groups[f->group].named[f->pos]++;
			real++;
		}
		audit->findings[kept++] = *f;
	}
	audit->findings_count = kept;
	audit->counts[AUDIT_SLOT_TWICE] = real;
}

/* ---- A5, A6 ---- */

enum holder {
	HOLDER_NONE,
	HOLDER_FAR,
	HOLDER_RETAINED,
	HOLDER_STAGED,
	HOLDER_REPACK,
	HOLDER_GONE, /* the position died while we looked */
};

static bool records_claimed(const struct audit *audit, uint32_t ssid)
{
	return ssid < audit->records_used &&
	       record_hdr_state(record_load(records_at(audit, ssid))) == RECORD_CLAIMED;
}

static enum holder records_holder(
	const struct audit *audit, uint32_t ssid, unsigned pos, struct span_word w)
{
	bool names = span_ssid(w) == ssid && span_pos(w) == pos;
	switch (span_state(w)) {
	case SPAN_FAR:
		if (names)
			return HOLDER_FAR;
		return records_claimed(audit, span_ssid(w)) ? HOLDER_REPACK : HOLDER_NONE;
	case SPAN_NEAR:
		if (!(span_flags(w) & SPAN_HAS_FAR))
			return HOLDER_NONE;
		if (names)
			return HOLDER_RETAINED;
		return records_claimed(audit, span_ssid(w)) ? HOLDER_REPACK : HOLDER_NONE;
	case SPAN_FETCHING: /* without the name: a rescue, from a staging slot */
		return names ? HOLDER_FAR : HOLDER_STAGED;
	case SPAN_EVICTING:
		return HOLDER_STAGED;
	case SPAN_DROPPING:
		return audit->drops ? HOLDER_STAGED : HOLDER_NONE;
	default:
		return HOLDER_NONE;
	}
}

/* The word first and the live bit last: a reference that was given up meanwhile is no finding. */
static enum holder records_live_holder(
	struct audit *audit, uint32_t ssid, unsigned pos, const struct audit_record *r)
{
	enum holder holder = HOLDER_NONE;
	for (unsigned i = 0; i < RECORDS_RETRIES && holder == HOLDER_NONE; i++) {
		struct span_word w =
			span_load(audit->catalog.words, (struct page_id){r->owner[pos]});
		holder = records_holder(audit, ssid, pos, w);
		uint64_t hdr = record_load(records_at(audit, ssid));
		if (!records_same_use(r->hdr, hdr) || !((record_hdr_live(hdr) >> pos) & 1)) {
			audit->records_changed++;
			return HOLDER_GONE;
		}
	}
	return holder;
}

static void records_check_live(struct audit *audit, uint32_t ssid, const struct audit_record *r)
{
	struct audit_space *s = &audit->space;
	struct audit_group *g = &audit->groups[record_hdr_group(r->hdr)];
	/* A page in pieces has one reference, and k slots hang on it. */
	const unsigned positions = audit->scheme == SCHEME_SPLIT ? 1 : g->k;
	const unsigned slots = g->k / positions;
	for (unsigned pos = 0; pos < positions; pos++) {
		struct audit_finding f = audit_finding(AUDIT_LIVE_LOOSE);
		if (!((record_hdr_live(r->hdr) >> pos) & 1)) {
			s->dead += slots;
			continue;
		}
		g->live++;
		enum holder holder = records_live_holder(audit, ssid, pos, r);
		s->far += holder == HOLDER_FAR ? slots : 0;
		s->retained += holder == HOLDER_RETAINED ? slots : 0;
		s->staged += holder == HOLDER_STAGED ? slots : 0;
		s->repacked += holder == HOLDER_REPACK ? slots : 0;
		s->dead += holder == HOLDER_GONE ? slots : 0;
		s->loose += holder == HOLDER_NONE ? slots : 0;
		f.ssid = ssid;
		f.pos = pos;
		f.page = r->owner[pos];
		if (holder == HOLDER_NONE)
			audit_found(audit, f);
	}
}

/* ---- all of them ---- */

static void records_check(struct audit *audit, uint32_t ssid)
{
	struct audit_record r;
	struct audit_finding f = audit_finding(AUDIT_RECORD_WRONG);
	bool read = audit_read_record(audit, ssid, &r);
	enum record_state state = record_hdr_state(r.hdr);
	audit->records[FM_MIN((unsigned)state, AUDIT_RECORD_STATES - 1u)]++;
	f.ssid = ssid;
	if (!read) {
		audit->records_changed += records_readable(r.hdr);
		return;
	}
	if ((unsigned)state > RECORD_LIMBO || !records_make_sense(audit, &r)) {
		/* Of a group that this look does not know yet? */
		uint32_t group = record_hdr_group(r.hdr);
		if (group < audit->groups_count ||
			group >= atomic_load(&audit->catalog.header->groups_count))
			audit_found(audit, f);
		return;
	}
	struct audit_group *g = &audit->groups[record_hdr_group(r.hdr)];
	g->records[state]++;
	records_name_slots(audit, ssid, &r);
	if (state == RECORD_LIMBO) {
		audit->space.limbo += (uint64_t)g->k + g->m;
		if (record_hdr_live(r.hdr) != 0)
			audit_found(audit, f);
		return;
	}
	audit->space.parity += g->m;
	records_check_live(audit, ssid, &r);
}

void audit_records(struct audit *audit)
{
	for (uint32_t ssid = 0; ssid < audit->records_used; ssid++) {
		records_check(audit, ssid);
		if (ssid % RECORDS_PROGRESS == 0)
			audit_progress(audit, ssid);
	}
	records_confirm_twice(audit);
}
