/*
 * farmem/mmap.h: the program's mmap and its kin, as the malloc front interposes them: which
 * mappings become far-capable, and what every call means on those that are.
 *
 * Callers: mmap_front.c (the names the program calls), runtime.c (opens), mmap_test.c. One space
 * per process. All calls answer as the kernel does: a result, or -errno. Any thread, at any time,
 * also in signal handlers: no malloc, and before mmap_open (or with --no-mmap) the kernel itself.
 *
 * Served: private anonymous mappings of at least --mmap-threshold bytes, readable and writable, or
 * reserved with PROT_NONE (at most a quarter of the range each) and made accessible later by
 * mprotect or MAP_FIXED. An address without MAP_FIXED is a wish, and not granted.
 * Not served: shared and file mappings, MAP_STACK, MAP_GROWSDOWN, MAP_HUGETLB, MAP_32BIT,
 * MAP_LOCKED, executable ones, and whatever does not come through libc (Go's own system calls).
 */
#ifndef FM_FARMEM_MMAP_H
#define FM_FARMEM_MMAP_H

#include <sys/types.h>

#include "farmem/range.h"

struct mmap_space {
	struct range *range; /* NULL: not open */
	uint64_t threshold;  /* bytes */
	_Atomic bool serves; /* new mappings */
	/* So many more pages are about to be used. May start the runtime and wait for it. */
	void (*want)(uint64_t pages);
};

struct mmap_call {
	void *address;
	size_t bytes;
	int prot, flags, fd;
	off_t offset;
};

struct mremap_call {
	void *address;
	size_t bytes, new_bytes;
	int flags;
	void *new_address;
};

extern struct mmap_space mmap_space;

void mmap_open(const struct mmap_space *space);
/* No new mappings are served: a forked child, or a runtime that could not start. */
void mmap_stop(void);

long mmap_map(const struct mmap_call *call);
long mmap_unmap(void *address, size_t bytes);
long mmap_remap(const struct mremap_call *call);
/* key: -1, or as pkey_mprotect has it. */
long mmap_protect(void *address, size_t bytes, int prot, int key);
long mmap_advise(void *address, size_t bytes, int advice);
/* The program locks memory, or flags it otherwise: what is given back must be freed of that. */
void mmap_note_flags(void);

#endif
