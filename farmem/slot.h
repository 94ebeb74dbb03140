/*
 * farmem/slot.h: which slots of a group's columns are free. Bitmaps in the runtime's own memory,
 * one bit a slot.
 *
 * Slots of different positions are independent numbers; a batch asks for `count` slots in every
 * column and gets them contiguous where it can, so that a batch is one write per column.
 * Thread-safe (one mutex per group; never taken on the fault path).
 */
#ifndef FM_FARMEM_SLOT_H
#define FM_FARMEM_SLOT_H

#include "farmem/core.h"

#define SLOT_TAKE_MAX 64

/* slots[pos * count + i], pos in 0..k+m-1. 0, -ENOSPC (nothing taken) or -ENOMEM. count <=
 * SLOT_TAKE_MAX. */
int slot_take(
	struct core *core, struct group_id group, unsigned count, uint32_t *slots) FM_MUST_USE;
/*
 * One slot in each parity column, for a spanset made of two (farmem/merge.c): slots[0..m-1]. Leaves
 * the last few to repack, which must be able to empty full nodes. 0, -ENOSPC or -ENOMEM.
 */
int slot_take_parity(struct core *core, struct group_id group, uint32_t *slots) FM_MUST_USE;
void slot_give(struct core *core, struct group_id group, unsigned pos, uint32_t slot);
/* A slot whose write is in doubt: not free, not used, until slot_give after a fence. */
void slot_quarantine(struct core *core, struct group_id group, unsigned pos, uint32_t slot);
/* Least free slots over the group's columns; 0 when the group was never used and has none. */
uint32_t slot_free_count(struct core *core, struct group_id group);
/* Used, dead but covered, or in quarantine (tests). */
bool slot_is_used(struct core *core, struct group_id group, unsigned pos, uint32_t slot);
void slot_close(struct core *core);

#endif
