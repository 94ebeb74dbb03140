/*
 * farmem/pager.h: the machine's page tables, as the paths of a span see them: one small seam.
 *
 * uffd.c is the real one (userfaultfd); tests/sim has a simulated one under the same fault.c,
 * evict.c, purge.c. Preconditions, for all: pages are indexes into the far range, inside one
 * stripe, and registered; staging slots are indexes into the stripe's staging ring. All return 0 or
 * -errno. Thread-safe as far as pages differ: who may touch a page is decided by its span word.
 */
#ifndef FM_FARMEM_PAGER_H
#define FM_FARMEM_PAGER_H

#include <stdbool.h>
#include <stdint.h>

struct pager;

struct pager_ops {
	/* MOVE: pages [page, +count) into staging [slot, +count). *done: how many went, from the
	 * first on. */
	int (*take)(struct pager *p, uint32_t page, uint32_t count, uint32_t slot, uint32_t *done);
	/* MOVE: one staged page back to its place; wakes who waits for it. */
	int (*give_back)(struct pager *p, uint32_t slot, uint32_t page);
	/* Breaks what makes present pages immovable (sharing since a fork). */
	void (*unshare)(struct pager *p, uint32_t page, uint32_t count);
	/* Copies FM_PAGE_SIZE bytes into a missing page; wakes. -EEXIST: it was present (waiters
	 * were woken). */
	int (*install)(struct pager *p, uint32_t page, const uint8_t *bytes);
	/* Zeros into missing pages from `page` on; *done pages; wakes. -EEXIST at one that was
	 * present. */
	int (*install_zero)(struct pager *p, uint32_t page, uint32_t count, uint32_t *done);
	/* Write-protects, or un-protects and wakes. */
	int (*protect)(struct pager *p, uint32_t page, uint32_t count, bool on);
	/* Copies present pages out, without ever faulting. */
	int (*read)(struct pager *p, uint32_t page, uint32_t count, uint8_t *bytes);
	/* Makes pages missing. */
	int (*drop)(struct pager *p, uint32_t page, uint32_t count);
	int (*drop_staging)(struct pager *p, uint32_t slot, uint32_t count);
	void (*wake)(struct pager *p, uint32_t page, uint32_t count);
	/* Accesses get SIGBUS from now on. */
	int (*poison)(struct pager *p, uint32_t page);
	bool (*present)(struct pager *p, uint32_t page);
};

struct pager {
	const struct pager_ops *ops;
	bool moves;             /* take and give_back work; else protect and read are used */
	uint8_t *staging;       /* (staging_slots + STAGE_PRIVATE_SLOTS) x FM_PAGE_SIZE */
	uint32_t staging_slots; /* of the ring */
};

#endif
