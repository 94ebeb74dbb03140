/*
 * farmem/uffd.h: the real pager: one userfaultfd, its part of the far range, its staging ring.
 */
#ifndef FM_FARMEM_UFFD_H
#define FM_FARMEM_UFFD_H

#include <stdatomic.h>

#include "base/compiler.h"
#include "farmem/pager.h"

/* What this kernel offers, found out once (DESIGN section 12, Kernel ladder). */
struct uffd_features {
	bool move;   /* 6.8 */
	bool poison; /* 6.6 */
	bool write_protect;
};

struct uffd {
	struct pager pager;
	struct uffd_features features;
	int fd;
	bool names_threads; /* faults tell who: set before uffd_open (profile.c needs it) */
	uint8_t *range;
	uint64_t staging_bytes;
	_Atomic bool replaced; /* a lost page's memory was replaced, for want of UFFDIO_POISON */
	/* The program cannot write to the page, nor will while its word is TAKING. May be NULL. */
	bool (*frozen)(void *owner, uint32_t page);
	void *owner;
	int memory_fd;                /* /proc/self/mem, or -1 */
	uint8_t bounce[FM_PAGE_SIZE]; /* of who holds the stripe's take_lock */
};

struct uffd_fault {
	uint32_t page;
	bool write_protected;
	uint32_t thread; /* 0 unless names_threads */
};

/* 0, -EPERM (no right to handle the kernel's faults), -ENOSYS. */
int uffd_probe(struct uffd_features *features) FM_MUST_USE;
/* range: address of page 0. moves: use MOVE (the kernel has it). Descriptors are opened on the
 * calling thread. */
int uffd_open(struct uffd *u, uint8_t *range, uint32_t staging_slots, bool moves) FM_MUST_USE;
/* In a forked child: a userfaultfd of its own, and the parent's staging as the fork found it. */
int uffd_reopen(struct uffd *u) FM_MUST_USE;
/* Registers pages; from now on missing ones fault to this uffd. Also MADV_DONTFORK: a child must
 * not read zeros. */
int uffd_register(struct uffd *u, uint64_t page, uint64_t count) FM_MUST_USE;
/* The kernel's madvise itself: the name may lead to the malloc front's, which would come back to
 * us. 0 or -errno. */
int uffd_advise(void *memory, uint64_t bytes, int advice) FM_MUST_USE;
/* Makes pages missing, mlocked ones too: they read as zeros. 0 or -errno. */
int uffd_drop_memory(uint8_t *at, uint64_t bytes) FM_MUST_USE;
/* Reads waiting faults, never blocks. Returns how many, or -errno. */
int uffd_read(struct uffd *u, struct uffd_fault *faults, unsigned most);
/* Sleeps until a fault may be waiting, at most timeout_ns (UINT64_MAX: no limit). */
void uffd_sleep(struct uffd *u, uint64_t timeout_ns);

#endif
