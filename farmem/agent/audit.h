/*
 * farmem/agent/audit.h: the conservation check of a catalog: is every slot accounted for, once?
 *
 * Used by `farmem inspect` and by tests on the catalog of a program that runs or was stopped. Reads
 * only; needs no agent. A look is one pass over groups, records and words. Nothing is locked, so a
 * running program may be caught in the middle of a change: a finding counts when it is there in
 * every one of several looks (audit_keep). Of a stopped program one look is exact, but for what
 * each of its threads may have in hand at that instant: one reference or one record's slots.
 *
 * What is checked
 *   A1  every record names a group, slots and pages that exist; live positions are data positions.
 *   A2  a slot of a column is named by at most one record that is STABLE, CLAIMED or in LIMBO; or,
 *       a data slot, by a merged spanset and by the one it came from, of which one at least is
 *       CLAIMED or in LIMBO, and both say the same of it: whose page, which CRC.
 *   A3  a column's count of used slots = slots named by records + those taken for new parities of a
 *       merge + doubtful ones (quarantine) + those of batches being stored. Only where nothing is
 * being stored, given back or taken. A4  every FAR word, and NEAR with HAS_FAR, names a live
 * position of a STABLE or CLAIMED record whose owner is that very page. A5  every live position has
 * exactly one holder: the word of its owner, or (A6). A6  holders without a word: a staging slot,
 * while its owner is EVICTING (its old duplicate, or the copy about to be published), or being
 * rescued or dropped by the evictor; a repack, whose source is CLAIMED and named by the owner's
 * word. A7  a group is OPEN only if no column of it is lost or being replaced; column and repair
 * name each other; a RETIRED group has no slot in use.
 */
#ifndef FM_FARMEM_AGENT_AUDIT_H
#define FM_FARMEM_AGENT_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "farmem/catalog.h"
#include "farmem/record.h"
#include "farmem/span.h"

#define AUDIT_FINDINGS_MAX 1024 /* kept; all are counted */
#define AUDIT_SPAN_STATES 8     /* the last: impossible ones */
#define AUDIT_RECORD_STATES 6
#define AUDIT_NONE UINT32_MAX

enum audit_kind {
	AUDIT_RECORD_WRONG = 0, /* A1 */
	AUDIT_SLOT_TWICE,       /* A2 */
	AUDIT_SLOT_LEAKED,      /* A3: used, but nobody names them */
	AUDIT_SLOT_UNCOUNTED,   /* A3: named, but counted as free */
	AUDIT_DOUBT_LOST,       /* A3: more doubtful slots counted than there can be */
	AUDIT_WORD_DANGLES,     /* A4: names no live position */
	AUDIT_WORD_FOREIGN,     /* A4: names a position of another page */
	AUDIT_LIVE_LOOSE,       /* A5: nobody holds it */
	AUDIT_GROUP_WRONG,      /* A7 */
	AUDIT_KINDS,
};

/* Fields that a kind has no use for are AUDIT_NONE. */
struct audit_finding {
	enum audit_kind kind;
	uint32_t group, pos, slot;
	uint32_t ssid, other; /* other: the second record that names the slot */
	uint32_t page;
	uint64_t count; /* slots */
};

struct audit_group {
	uint32_t state; /* enum catalog_group_state */
	uint8_t k, m;
	bool known;  /* its numbers make sense: records may name it */
	bool moving; /* slots were taken, given back or stored into meanwhile */
	uint32_t slot_count;
	uint32_t used[EC_N_MAX];  /* by the runtime's count */
	uint32_t named[EC_N_MAX]; /* by records, each slot once */
	uint32_t records[AUDIT_RECORD_STATES];
	uint32_t live;
	uint64_t *bits; /* named slots, a bitmap a column */
};

/* Slots, by what is in them. */
struct audit_space {
	uint64_t capacity, used; /* of groups that are not RETIRED */
	uint64_t far, retained;  /* the only copy; a duplicate of a near page */
	uint64_t staged;         /* held by a staging slot, or by a fault being served */
	uint64_t repacked;       /* being written elsewhere: both copies are live */
	uint64_t loose;          /* AUDIT_LIVE_LOOSE */
	uint64_t dead, parity, limbo;
	uint64_t quarantined; /* the runtime's count */
	uint64_t in_flight;   /* used, unnamed, in groups that are moving */
};

struct audit {
	struct catalog catalog; /* the caller's; its descriptor is used to leave holes alone */
	/* Copies of the header: the program may write to its own. */
	uint64_t range_pages;
	uint32_t records_max, record_stride, code_k, code_n, scheme;
	uint32_t slot_bytes; /* of groups with the whole code */
	bool drops;          /* no MOVE: the evictor's words pass through DROPPING */
	/* of the last look */
	uint32_t groups_count, records_used;
	struct audit_group *groups;
	uint64_t words[AUDIT_SPAN_STATES];
	uint64_t words_has_far, words_changed;
	uint64_t records[AUDIT_RECORD_STATES];
	uint64_t records_changed; /* changed while being looked at, again and again */
	uint64_t quarantined_before;
	uint32_t merges[CATALOG_MERGES_MAX]; /* their phases as the look began */
	struct audit_space space;
	unsigned looks, groups_moving, groups_watched;
	uint64_t counts[AUDIT_KINDS];
	unsigned findings_count;
	struct audit_finding findings[AUDIT_FINDINGS_MAX];
	/* How far a look is; called now and then. May be NULL. */
	void (*progress)(void *context, uint64_t done, uint64_t total);
	void *context;
};

/* catalog: attached, and stays the caller's. 0, -EPROTO or -ENOMEM. */
int audit_open(struct audit *audit, const struct catalog *catalog) FM_MUST_USE;
void audit_close(struct audit *audit);
/* One pass; what earlier ones found is forgotten. 0 or -ENOMEM. */
int audit_look(struct audit *audit) FM_MUST_USE;
/* Drops findings that `earlier` (count of them) did not have: they were changes under way. */
void audit_keep(struct audit *audit, const struct audit_finding *earlier, unsigned count);
/*
 * Of a stopped program: the findings that threads stopped between two instructions may leave
 * behind: a reference or a slot on its way from one owner to the next. slots: how many findings;
 * else: how many threads it takes (a record's slots go back one by one).
 */
uint64_t audit_in_hand_slots(const struct audit *audit);
uint64_t audit_in_hand(const struct audit *audit);
/* A sentence. Returns text. */
const char *audit_describe(const struct audit_finding *finding, char *text, unsigned size);
const char *audit_kind_name(enum audit_kind kind);

/* A record as it was at one moment. */
struct audit_record {
	uint64_t hdr;
	uint32_t owner[EC_K_MAX];
	uint32_t slot[EC_N_MAX];
	uint32_t crc[EC_N_MAX];
};
/* False: it kept changing, or (all but hdr is then void) it is FREE or FILLING. */
bool audit_read_record(const struct audit *audit, uint32_t ssid, struct audit_record *record);

/* The same of one data position only. */
bool audit_read_owner(
	const struct audit *audit, uint32_t ssid, unsigned pos, uint64_t *hdr, uint32_t *owner);

/* ---- between the files of the audit ---- */
void audit_found(struct audit *audit, struct audit_finding finding);
struct audit_finding audit_finding(enum audit_kind kind);
void audit_progress(struct audit *audit, uint64_t done);
/* audit_records.c: A1, A2, A5, A6 */
void audit_records(struct audit *audit);
/* A record (AUDIT_NONE: a merge) has this slot, which is within bounds. */
void audit_name_slot(
	struct audit *audit, uint32_t group, unsigned pos, uint32_t slot, uint32_t ssid);
/* audit_merges.c: phases now; groups in which they moved since; slots in no record yet */
void audit_merges_begin(struct audit *audit);
void audit_merges_moving(struct audit *audit);
void audit_merges_name(struct audit *audit);
/* audit_words.c: A4 */
void audit_words(struct audit *audit);

#endif
