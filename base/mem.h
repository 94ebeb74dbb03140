/*
 * base/mem.h: memory for the runtime itself: straight from mmap, zeroed, never from malloc
 * (invariant 8).
 */
#ifndef FM_BASE_MEM_H
#define FM_BASE_MEM_H

#include <stddef.h>
#include <stdbool.h>

#include "base/compiler.h"

/* Anonymous zeroed memory, page aligned, not reserved against overcommit. NULL when there is none.
 */
FM_EXPORT void *mem_map(size_t bytes) FM_MUST_USE;
/* The same on huge pages when the machine gives any (MADV_HUGEPAGE; 2 MiB aligned). */
void *mem_map_huge(size_t bytes) FM_MUST_USE;
/* bytes as given to mem_map*. NULL is fine. */
void mem_unmap(void *memory, size_t bytes);
/* True when all bytes are zero; length a multiple of 64, memory 64-byte aligned. */
bool mem_is_zero(const void *memory, size_t length);

#endif
