/*
 * farmem/mmap_move.c: mremap of the program's mappings: shrinking and growing in place, moving by
 * copy.
 *
 * Callers: mmap_front.c. A page cannot keep its far copy under another number (its record names
 * it), so a move copies; but block by block, each given back as soon as it is copied, and pages
 * nothing was ever in are left alone: no more than a block comes near for it.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "farmem/mmap_part.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static long mmap_move_kernel(const struct mremap_call *c)
{
	void *at = mremap(c->address, c->bytes, c->new_bytes, c->flags, c->new_address);
	return at == MAP_FAILED ? -errno : (long)at;
}

/* ---- mappings that are the kernel's ---- */

static int mmap_make_moved(uint8_t *memory, uint64_t bytes, void *argument)
{
	void *const *from = argument;
	(void)bytes;
	void *at = mremap(*from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, memory);
	return at == MAP_FAILED ? -errno : 0;
}

/*
 * A mapping of the kernel's to a place in the range. By way of another place: all that can go wrong
 * goes wrong before the range is changed.
 */
static long mmap_move_in(const struct mremap_call *c)
{
	struct range *r = mmap_space.range;
	struct mmap_part part = mmap_take_apart(c->new_address, c->new_bytes);
	struct mremap_call first = *c;
	if ((uintptr_t)c->new_address % FM_PAGE_SIZE != 0 || part.below > 0 || part.above > 0)
		return -EINVAL;
	void *way = mmap(
		NULL, c->new_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (way == MAP_FAILED)
		return -errno;
	first.new_address = way;
	long at = mmap_move_kernel(&first);
	if (at < 0) {
		(void)munmap(way, c->new_bytes);
		return at;
	}
	struct range_change change = {
		mmap_make_moved, &way, RANGE_BYTE(RANGE_FOREIGN, PROT_READ | PROT_WRITE)};
	range_map_lock(r);
	(void)range_take_unused(r, part.page, part.end);
	int rc = range_change(r, part.page, part.end - part.page, &change);
	range_map_unlock(r);
	return rc == 0 ? (long)c->new_address : rc;
}

/* The program's own mapping inside the range. Where it leaves, nobody else may settle (M2). */
static long mmap_move_foreign(const struct mremap_call *c, const struct mmap_part *part)
{
	struct range *r = mmap_space.range;
	uint64_t pages = part->end - part->page;
	uint64_t new_pages = (c->new_bytes + FM_PAGE_SIZE - 1) / FM_PAGE_SIZE;
	if (!(c->flags & MREMAP_FIXED) && new_pages <= pages) {
		range_map_lock(r);
		range_give_back(r, part->page + new_pages, pages - new_pages);
		range_map_unlock(r);
		return (long)c->address;
	}
	if (!(c->flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	if (c->flags & MREMAP_FIXED && mmap_meets(c->new_address, c->new_bytes))
		return -EINVAL; /* from one of our blocks into another: nobody was seen to */
	long at = mmap_move_kernel(c);
	if (at < 0 || c->flags & MREMAP_DONTUNMAP)
		return at;
	range_map_lock(r);
	(void)mmap(c->address, pages * FM_PAGE_SIZE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	range_give_back(r, part->page, pages);
	range_map_unlock(r);
	return at;
}

/* ---- far-capable ones ---- */

/* Something may be in the page: present, or with a word that says where it is. */
static bool mmap_move_holds(struct range *r, uint64_t page, unsigned char resident)
{
	struct page_id id = {(uint32_t)page};
	if (resident & 1)
		return true;
	/* After the look at residence: a page evicted in between has a word. */
	return range_registered(r, page) &&
	       span_state(span_load(r->core->catalog.words, id)) != SPAN_EMPTY;
}

/* At most a block. */
static void mmap_move_block(struct range *r, uint64_t page, uint64_t count, uint8_t *to)
{
	unsigned char resident[RANGE_BLOCK_PAGES];
	const uint8_t *from = r->base + page * FM_PAGE_SIZE;
	memset(resident, 1, sizeof(resident));
	(void)!mincore((void *)(uintptr_t)from, count * FM_PAGE_SIZE, resident);
	for (uint64_t i = 0; i < count; i++)
		if (mmap_move_holds(r, page + i, resident[i]))
			memcpy(to + i * FM_PAGE_SIZE, from + i * FM_PAGE_SIZE, FM_PAGE_SIZE);
}

/* A run with one protection: contents, then the protection; the old place is given back, or only
 * emptied. */
static void mmap_move_run(
	struct range *r, const struct mmap_part *run, uint8_t *to, const struct mremap_call *c)
{
	uint8_t byte = r->owners[run->page];
	size_t bytes = (run->end - run->page) * FM_PAGE_SIZE;
	bool holds = RANGE_OWNER(byte) == RANGE_COMMITTED;
	if (holds && !(RANGE_PROT(byte) & PROT_READ))
		(void)mprotect(r->base + run->page * FM_PAGE_SIZE, bytes, PROT_READ);
	for (uint64_t page = run->page, next; page < run->end; page = next) {
		next = FM_MIN(run->end, page + RANGE_BLOCK_PAGES);
		if (holds)
			mmap_move_block(
				r, page, next - page, to + (page - run->page) * FM_PAGE_SIZE);
		if (c->flags & MREMAP_DONTUNMAP) {
			range_purge(r, r->stripe_list, r->base + page * FM_PAGE_SIZE,
				(next - page) * FM_PAGE_SIZE);
			continue;
		}
		range_map_lock(r);
		range_give_back(r, page, next - page);
		range_map_unlock(r);
	}
	if (RANGE_PROT(byte) != (PROT_READ | PROT_WRITE))
		(void)mmap_protect(to, bytes, RANGE_PROT(byte), -1);
}

/* To a new place, which is plain memory when the range is used up or the piece is small. */
static long mmap_move_copy(const struct mremap_call *c, const struct mmap_part *part)
{
	struct range *r = mmap_space.range;
	uint8_t last = RANGE_PROT(r->owners[part->end - 1]);
	uint64_t most =
		FM_MIN(part->end - part->page, (c->new_bytes + FM_PAGE_SIZE - 1) / FM_PAGE_SIZE);
	struct mmap_call into = {.address = c->new_address,
		.bytes = c->new_bytes,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			 (c->flags & MREMAP_FIXED ? MAP_FIXED : 0),
		.fd = -1};
	if (!(c->flags & MREMAP_FIXED))
		into.address = NULL;
	long at = mmap_map(&into);
	if (at < 0)
		return at;
	uint8_t *to = (uint8_t *)at;
	for (uint64_t page = part->page, next; page < part->page + most; page = next) {
		next = range_run(r, page, part->page + most);
		struct mmap_part run = {.page = page, .end = next};
		mmap_move_run(r, &run, to + (page - part->page) * FM_PAGE_SIZE, c);
	}
	size_t copied = most * FM_PAGE_SIZE;
	if (c->new_bytes > copied && last != (PROT_READ | PROT_WRITE))
		(void)mmap_protect(to + copied, c->new_bytes - copied, last, -1);
	if (part->page + most < part->end && !(c->flags & MREMAP_DONTUNMAP))
		(void)mmap_unmap(r->base + (part->page + most) * FM_PAGE_SIZE,
			(part->end - part->page - most) * FM_PAGE_SIZE);
	return at;
}

/* Over what is free behind it. */
static bool mmap_move_grow(const struct mmap_part *part, uint64_t new_end)
{
	struct range *r = mmap_space.range;
	bool grown = new_end <= r->pages;
	mmap_space.want(new_end - part->end);
	range_map_lock(r);
	uint8_t prot = RANGE_PROT(r->owners[part->end - 1]);
	for (uint64_t page = part->end; grown && page < new_end; page++)
		grown = range_owner_of(r, page) == RANGE_FREE;
	if (grown && mprotect(r->base + part->end * FM_PAGE_SIZE,
			     (new_end - part->end) * FM_PAGE_SIZE, prot) != 0)
		grown = false;
	if (grown)
		range_own(r, part->end, new_end - part->end, mmap_byte(prot));
	range_map_unlock(r);
	return grown;
}

static bool mmap_move_overlaps(const struct mremap_call *c)
{
	uintptr_t from = (uintptr_t)c->address, to = (uintptr_t)c->new_address;
	return from < to + c->new_bytes && to < from + c->bytes;
}

/* All of it far-capable and mapped; or all of it the program's own (*foreign). */
static bool mmap_move_uniform(const struct mmap_part *part, bool *foreign)
{
	const struct range *r = mmap_space.range;
	*foreign = range_owner_of(r, part->page) == RANGE_FOREIGN;
	for (uint64_t page = part->page; page < part->end; page = range_run(r, page, part->end)) {
		enum range_owner owner = range_owner_of(r, page);
		if (*foreign ? owner != RANGE_FOREIGN
			     : owner != RANGE_COMMITTED && owner != RANGE_RESERVED)
			return false;
	}
	return true;
}

static long mmap_move_far(const struct mremap_call *c, const struct mmap_part *part)
{
	uint64_t pages = part->end - part->page;
	uint64_t new_pages = (c->new_bytes + FM_PAGE_SIZE - 1) / FM_PAGE_SIZE;
	if (!(c->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))) {
		if (new_pages <= pages)
			return new_pages == pages
				       ? (long)c->address
				       : (mmap_unmap((char *)c->address + new_pages * FM_PAGE_SIZE,
						  (pages - new_pages) * FM_PAGE_SIZE),
						 (long)c->address);
		if (mmap_move_grow(part, part->page + new_pages))
			return (long)c->address;
		if (!(c->flags & MREMAP_MAYMOVE))
			return -ENOMEM;
	}
	return mmap_move_copy(c, part);
}

FM_EXPORT long mmap_remap(const struct mremap_call *c)
{
	const int known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
	bool from = mmap_meets(c->address, FM_MAX(c->bytes, (size_t)1)), foreign;
	bool to = (c->flags & MREMAP_FIXED) && mmap_meets(c->new_address, c->new_bytes);
	if (!from && !to)
		return mmap_move_kernel(c);
	if ((c->flags & ~known) != 0 || (uintptr_t)c->address % FM_PAGE_SIZE != 0 ||
		c->new_bytes == 0 || c->bytes == 0 ||
		((c->flags & MREMAP_FIXED) &&
			((uintptr_t)c->new_address % FM_PAGE_SIZE != 0 || mmap_move_overlaps(c))) ||
		((c->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(c->flags & MREMAP_MAYMOVE)) ||
		((c->flags & MREMAP_DONTUNMAP) && c->bytes != c->new_bytes))
		return -EINVAL;
	if (!from)
		return mmap_move_in(c);
	struct mmap_part part = mmap_take_apart(c->address, c->bytes);
	if (part.below > 0 || part.above > 0 || !mmap_move_uniform(&part, &foreign))
		return -EFAULT;
	return foreign ? mmap_move_foreign(c, &part) : mmap_move_far(c, &part);
}
