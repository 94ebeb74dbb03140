/*
 * farmem/merge.h: the runtime's half of compaction: it alone claims, fills, publishes and retires
 * records, takes and gives slots, and switches words (DESIGN section 7, Compaction; the phases are
 * in farmem/catalog.h, the agent's half in farmem/agent/compact.h). Called by evictors between
 * batches.
 *
 * Invariants
 *   M1  Merged is what is live under both claims: a position that lives in both refuses the pair;
 *       near duplicates (HAS_FAR) are live.
 *   M2  A live position's reference moves: n's bit is set from record_publish on, the word is
 *       switched from (source, p) to (n, p) by CAS, then the source's bit is cleared. Where the
 *       source's bit is found cleared, n's is cleared. A word in FETCHING or EVICTING that holds
 *       the reference is left alone and looked at again: nobody waits for it.
 *       n is nobody else's (CLAIMED) until both sources are in the limbo.
 *   M3  a and b are retired when no live bit is left in them; the limbo gives back all their slots
 *       but those that n has, after the grace period. Until then both descriptions decode.
 *   M4  A pair that is given up leaves nothing: n abandoned, fresh slots given back (only from
 *       ABORTED or COMMITTED-but-not-good: no node may still store there), a and b unclaimed.
 *   M5  Nothing is begun while a forked child reads (catalog pinned): it would free nothing.
 */
#ifndef FM_FARMEM_MERGE_H
#define FM_FARMEM_MERGE_H

#include "farmem/stripe.h"

/*
 * One round over the catalog's merges: claims what is wanted, switches what is committed, cleans up
 * what was given up. Any evictor's thread; only one at a time does something. True: something
 * changed (the agent is to be told: core->report_merges), or should be looked at again soon.
 */
bool merge_round(struct stripe *st);
/* The agent says that there is something to do: the next round looks at once. Any thread. */
void merge_call(struct core *core);
/* For longer than a second nothing moved because pages wait in staging: they are to be stored. */
static inline bool merge_stuck(const struct core *core)
{
	return atomic_load_explicit(&core->merging.stuck, memory_order_relaxed) != 0;
}
/* Some entry is not FREE: the evictor has to come back though no page wants to leave. */
bool merge_pending(const struct core *core);

#endif
