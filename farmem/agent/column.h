/*
 * farmem/agent/column.h: replacing a column of a group: the catalog's side of it (DESIGN section 6,
 * Group; section 7, Repair and Drain).
 *
 *     close group -> begin -> { batch -> the replacement node rebuilds or copies it -> done } ...
 *       -> quiet, and a whole scan finds nothing undone -> (fence, if in doubt) -> commit -> open
 *
 * Used by agent_repair.c (RPCs to real nodes) and by tests/sim/agent.c (simulated ones). No I/O and
 * no allocation here; one caller at a time per catalog. Everything a successor needs is in the
 * catalog: a restarted agent finds active repairs there and goes on with column_resume.
 *
 * Invariants
 *   C1  A group whose column is lost or being replaced is not OPEN.
 *   C2  A done bit is set only after the node said that the bytes are stored in next.
 *   C3  Commit only when every record of the group has its done bit, no thread and no merge can
 *       still add a record (catalog_thread.storing, catalog_merge.phase), and no call that may
 *       store in next is outstanding.
 *   C4  The old place's lease is given back only after the commit.
 *   C5  Nothing is rebuilt before the group is quiet: until then a slot may be freed and used for
 *       another spanset, whose bytes an earlier done bit would belie.
 *   C6  The catalog is the program's to write: what is read from it is copied once and checked.
 */
#ifndef FM_FARMEM_AGENT_COLUMN_H
#define FM_FARMEM_AGENT_COLUMN_H

#include <stdbool.h>
#include <stdint.h>

#include "farmem/catalog.h"

#define COLUMN_NO_REPAIR UINT32_MAX

struct column_job {
	struct catalog *catalog;
	uint32_t group;
	uint32_t position;
	uint32_t repair; /* index into catalog->repairs */
	uint32_t cursor; /* next record to look at */
	uint8_t k, m;    /* of the group, checked */
	uint32_t slot_count;
	/* Since the last time the scan began: was anything undone seen; was the group quiet then?
	 */
	bool undone, was_quiet, ended;
};

/* One spanset to be rebuilt: what its record said, consistent at one moment. */
struct column_entry {
	uint32_t ssid;
	uint32_t slot[EC_N_MAX]; /* by position, all k+m; each below the group's slot_count */
	uint32_t crc[EC_N_MAX];
};

/* OPEN -> CLOSED (seq_cst); EVACUATE and RETIRED stay. */
void column_close_group(struct catalog *catalog, uint32_t group);
/* CLOSED -> OPEN when no column of it is lost or being replaced, nor its node draining. */
void column_open_group(struct catalog *catalog, uint32_t group);
/* Marks a column lost, its group closed first. A copy of it under way goes on as a decode. */
void column_lose(struct catalog *catalog, uint32_t group, uint32_t position);
/* Nothing can add a record to the group, which is closed: no thread stores there
 * (catalog_thread.storing), and no merge of it may still become one (catalog_merge.phase). */
bool column_quiet(const struct catalog *catalog, uint32_t group);
/* The group is one that this catalog may have, and of k, m, slot_count within bounds. */
bool column_group_good(const struct catalog *catalog, uint32_t group);

/* The group is closed. 0; -EBUSY: being replaced already; -EAGAIN: no free entry in repairs;
 * -EPROTO: not a group and column, or it is open. */
int column_begin(struct column_job *job, struct catalog *catalog, uint32_t group, uint32_t position,
	enum catalog_repair_kind kind, const struct catalog_place *next) FM_MUST_USE;
/*
 * The repair that an earlier agent began; everything it named is checked; doubt is set. 0;
 * -EALREADY: that agent died in the middle of its commit: column_commit ends it (nothing else may
 * be done with the job; before any column_lose, which it would undo); -ENOENT: that entry is not in
 * use; -EPROTO: it names nothing that is being replaced, and is free now.
 * After begin the caller sets repairs[job->repair].started_ns.
 */
int column_resume(struct column_job *job, struct catalog *catalog, uint32_t repair) FM_MUST_USE;
/*
 * The next up to `max` spansets whose slot is not done. Looks at `look` records at most, so there
 * may be none though *at_end is false. *at_end: the scan has seen all records; wait for the
 * outcomes of what was handed out, then column_complete. Before the group is quiet (C5): none, and
 * not the end.
 */
unsigned column_batch(struct column_job *job, struct column_entry *entries, unsigned max,
	unsigned look, bool *at_end);
/* The record of a spanset of this group, if it is one now (STABLE or CLAIMED, and needed). For
 * scrubbing: *gen is its generation. */
bool column_read_record(const struct catalog *catalog, uint32_t group, uint32_t ssid,
	struct column_entry *entry, uint32_t *gen);
/* The group of any spanset: false when there is none now. */
bool column_record_group(const struct catalog *catalog, uint32_t ssid, uint32_t *group);
/* How many records there may be: none at or beyond. */
uint32_t column_records(const struct catalog *catalog);
void column_done(struct column_job *job, uint32_t slot);
/* May position `position` of the entry be read now, and where? Cur when it is neither lost nor on a
 * node that is DOWN; next where done. NULL: an erasure. Copy it and check what is copied (C6). */
const struct catalog_place *column_source(
	const struct catalog *catalog, uint32_t group, uint32_t position, uint32_t slot);
/* At the end of a scan: true when nothing was undone and no thread could add anything since it
 * began (C3). Begins the next scan. */
bool column_complete(struct column_job *job);
/* The target was fenced: its lease has a new capability. Before the commit. */
void column_renew(struct column_job *job, const struct catalog_place *next);
/* C3 holds. cur becomes next, lost is cleared, the repair's entry is free. The old place in *old.
 */
void column_commit(struct column_job *job, struct catalog_place *old);
/* The next place is given up; *next is what it was. */
void column_abort(struct column_job *job, struct catalog_place *next);
/* OPEN, CLOSED -> EVACUATE; EVACUATE -> CLOSED (a column may still be being replaced). The runtime
 * is told by WORK. */
void column_evacuate_group(struct catalog *catalog, uint32_t group);
void column_keep_group(struct catalog *catalog, uint32_t group);
/* Nothing is in use in any column of it, and no thread may store there: EVACUATE -> RETIRED. */
bool column_retire_group(struct catalog *catalog, uint32_t group);
/* Asks for a spanset to be written anew elsewhere. False: no room now, or asked for already. */
bool column_heal(struct catalog *catalog, uint32_t ssid);

#endif
