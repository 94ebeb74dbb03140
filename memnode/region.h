/*
 * memnode/region.h: the memory behind one lease: a memfd and our mapping of it. Used by lease.c,
 * which decides who may touch it when.
 */
#ifndef FM_MEMNODE_REGION_H
#define FM_MEMNODE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct region {
	int memfd;
	uint8_t *memory;
	uint64_t bytes;
	bool hugetlb; /* of hugetlbfs: write(2) does not work on the memfd */
	bool huge;    /* all of it hugetlb or transparent huge pages */
	/* See region_warm; its own. */
	bool huge_wanted;
	uint64_t warmed_bytes;
};

/* What to try; each falls back to the next. */
enum region_pages { REGION_HUGETLB, REGION_TRANSPARENT, REGION_SMALL };

/* Zeroed memory of `bytes` (a multiple of 4 KiB), all of it allocated. 0, -ENOMEM, or -errno. */
int region_make(struct region *region, uint64_t bytes, enum region_pages pages) FM_MUST_USE;
/*
 * The next step of what makes a region faster, and takes too long for whoever waits for a Reserve:
 * transparent huge pages, which make a client's writes into shared memory a third cheaper
 * (bench/store) and which MADV_COLLAPSE gives whatever shmem_enabled says; where there are none and
 * `populate` is set, page tables, for writes from the network. A few milliseconds a step; false
 * when there is nothing more to do. Clients may use the memory meanwhile. Best effort.
 */
bool region_warm(struct region *region, bool populate);
/* Truncates the file, so that descriptors handed to clients become useless, and gives everything
 * back. */
void region_close(struct region *region);
/*
 * Moves the bytes to a new memfd and closes the old one: who holds the old descriptor can no longer
 * write. Takes as much memory again meanwhile. Through the kernel, because a holder may truncate
 * under our hands (then zeros follow). On failure nothing has changed.
 */
int region_migrate(struct region *region) FM_MUST_USE;
/* See lease_store. */
int region_store(
	struct region *region, uint64_t offset, const void *from, size_t bytes) FM_MUST_USE;
/* See lease_load. */
int region_load(const struct region *region, uint64_t offset, void *into, size_t bytes) FM_MUST_USE;

#endif
