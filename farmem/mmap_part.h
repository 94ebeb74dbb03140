/*
 * farmem/mmap_part.h: between mmap.c and mmap_move.c.
 */
#ifndef FM_FARMEM_MMAP_PART_H
#define FM_FARMEM_MMAP_PART_H

#include "farmem/mmap.h"

/* [address, +bytes) taken apart: bytes below the range, pages of it, bytes above. */
struct mmap_part {
	size_t below;
	uint64_t page, end;
	size_t above;
	void *above_at;
};

/* Does any of it lie in the range? False before the space is open. */
bool mmap_meets(const void *address, size_t bytes);
/* Of what does. */
struct mmap_part mmap_take_apart(const void *address, size_t bytes);
/* A page of a mapping with this protection. */
uint8_t mmap_byte(int prot);

#endif
