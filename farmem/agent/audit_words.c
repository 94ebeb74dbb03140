/*
 * farmem/agent/audit_words.c: the words of all pages: how many in which state, and whether what
 * they name is there (audit.h, A4). Called by audit_look.
 *
 * A word that names a record pins it (record.h R2). So: word, record, word again; only when the
 * word is still the same was the record seen while it was named.
 */
#include "farmem/agent/audit.h"

#include <errno.h>
#include <unistd.h>

#define WORDS_PROGRESS 65536u
#define WORDS_RECHECKS 3

static enum audit_kind word_judge(const struct audit *audit, struct span_word w, uint64_t page)
{
	uint32_t pos = span_pos(w), owner;
	uint64_t hdr;
	/* A claim, a release or live bits of others may change hdr: never the reference itself. */
	if (span_ssid(w) >= audit->records_used || pos >= audit->code_k ||
		!audit_read_owner(audit, span_ssid(w), pos, &hdr, &owner))
		return AUDIT_WORD_DANGLES;
	enum record_state state = record_hdr_state(hdr);
	if ((state != RECORD_STABLE && state != RECORD_CLAIMED) ||
		!(record_hdr_live(hdr) & (1u << pos)))
		return AUDIT_WORD_DANGLES;
	return owner == page ? AUDIT_KINDS : AUDIT_WORD_FOREIGN;
}

static void word_check(struct audit *audit, struct span_word w, uint32_t page)
{
	for (unsigned i = 0; i < WORDS_RECHECKS; i++) {
		enum audit_kind kind = word_judge(audit, w, page);
		struct span_word again = span_load(audit->catalog.words, (struct page_id){page});
		if (kind == AUDIT_KINDS)
			return;
		if (again.v == w.v) {
			struct audit_finding f = audit_finding(kind);
			f.page = page;
			f.ssid = span_ssid(w);
			f.pos = span_pos(w);
			/* A record that this look does not know yet is no finding. */
			if (f.ssid >= audit->records_used &&
				atomic_load(&audit->catalog.header->records_used) > f.ssid)
				break;
			audit_found(audit, f);
			return;
		}
		w = again;
		if (!span_holds_reference(w))
			break;
	}
	audit->words_changed++;
}

static void words_walk(struct audit *audit, uint64_t from, uint64_t to)
{
	for (uint64_t page = from; page < to; page++) {
		struct span_word w =
			span_load(audit->catalog.words, (struct page_id){(uint32_t)page});
		unsigned state = span_state(w);
		audit->words[FM_MIN(state, AUDIT_SPAN_STATES - 1u)]++;
		if (state == SPAN_NEAR && (span_flags(w) & SPAN_HAS_FAR))
			audit->words_has_far++;
		if (span_holds_reference(w))
			word_check(audit, w, (uint32_t)page);
		if (page % WORDS_PROGRESS == 0)
			audit_progress(audit, audit->records_used + page);
	}
}

/* The next pages from `page` on whose words are not in a hole. False: none. */
static bool words_extent(const struct audit *audit, uint64_t page, uint64_t *from, uint64_t *to)
{
	const struct catalog *c = &audit->catalog;
	off_t table = (const uint8_t *)c->words - (const uint8_t *)c->header;
	off_t end = table + (off_t)(audit->range_pages * sizeof(uint64_t));
	off_t data = lseek(c->fd, table + (off_t)(page * sizeof(uint64_t)), SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return false;
	if (data < 0) { /* no descriptor that knows of holes: all of it */
		*from = page;
		*to = audit->range_pages;
		return page < audit->range_pages;
	}
	off_t hole = lseek(c->fd, data, SEEK_HOLE);
	if (hole < 0 || hole > end)
		hole = end;
	if (data >= end)
		return false;
	*from = (uint64_t)(data - table) / sizeof(uint64_t);
	*to = (uint64_t)(hole - table) / sizeof(uint64_t);
	return true;
}

void audit_words(struct audit *audit)
{
	uint64_t page = 0, from, to, seen = 0;
	while (page < audit->range_pages && words_extent(audit, page, &from, &to)) {
		words_walk(audit, from, to);
		seen += to - from;
		page = to;
	}
	audit->words[SPAN_EMPTY] += audit->range_pages - seen;
}
