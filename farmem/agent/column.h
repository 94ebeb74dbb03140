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
 *   C3  Commit only when every record of the group has its done bit, no thread can still add a
 *       record (catalog_thread.storing), and no call that may store in next is outstanding.
 *   C4  The old place's lease is given back only after the commit.
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
	/* Since the last time the scan began: was anything undone seen; was the group quiet then?
	 */
	bool undone, was_quiet;
};

/* One spanset to be rebuilt: what its record said, consistent at one moment. */
struct column_entry {
	uint32_t ssid;
	uint32_t slot[EC_N_MAX]; /* by position, all k+m */
	uint32_t crc[EC_N_MAX];
};

/* OPEN -> CLOSED (seq_cst); EVACUATE and RETIRED stay. */
void column_close_group(struct catalog *catalog, uint32_t group);
/* CLOSED -> OPEN when no column of it is lost or being replaced, nor its node draining. */
void column_open_group(struct catalog *catalog, uint32_t group);
/* Marks a column lost, its group closed first. */
void column_lose(struct catalog *catalog, uint32_t group, uint32_t position);

/* The group is closed. 0; -EBUSY: being replaced already; -EAGAIN: no free entry in repairs. */
int column_begin(struct column_job *job, struct catalog *catalog, uint32_t group, uint32_t position,
	enum catalog_repair_kind kind, const struct catalog_place *next) FM_MUST_USE;
/* The repair that an earlier agent began; everything it named is checked. 0 or -EPROTO. */
int column_resume(struct column_job *job, struct catalog *catalog, uint32_t repair) FM_MUST_USE;
/* The next up to `max` spansets whose slot is not done; 0 at the end of a scan (looks at `look`
 * records at most per call: returns 0 with *at_end false when they had none). */
unsigned column_batch(struct column_job *job, struct column_entry *entries, unsigned max,
	unsigned look, bool *at_end);
void column_done(struct column_job *job, uint32_t slot);
/* May position `position` of the entry be read now, and where? Cur when it is neither lost nor on a
 * node that is DOWN; next where done. NULL: an erasure. */
const struct catalog_place *column_source(
	const struct catalog *catalog, uint32_t group, uint32_t position, uint32_t slot);
/* At the end of a scan: true when nothing was undone and no thread could add anything since it
 * began (C3). Begins the next scan. */
bool column_complete(struct column_job *job);
/* C3 holds. cur becomes next, lost is cleared, the repair's entry is free. The old place in *old.
 */
void column_commit(struct column_job *job, struct catalog_place *old);
/* The next place is given up; *next is what it was. */
void column_abort(struct column_job *job, struct catalog_place *next);
/* Nothing is in use in any column of it, and no thread may store there: EVACUATE -> RETIRED. */
bool column_retire_group(struct catalog *catalog, uint32_t group);

#endif
