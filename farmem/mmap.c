/*
 * farmem/mmap.c: see mmap.h. mmap_move.c has mremap.
 *
 * In libfarmem.so mmap, munmap, mprotect, mremap and madvise are the kernel's own (bare.c): what is
 * called here never comes back through the front (invariant 8).
 *
 * Every call is taken apart into what lies outside the range, for the kernel, and inside, where
 * each run of pages is dealt with by its owner (range.h). Invariants M1 to M4: range_map.c.
 */
#include "farmem/mmap.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "farmem/mmap_part.h"

#define MMAP_RESERVE_SHARE 4u /* a reservation takes at most the range's 4th part */
#define MMAP_SERVED_FLAGS                                                                          \
	(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK |               \
		MAP_DENYWRITE | MAP_EXECUTABLE)
#define MMAP_PROT_ANY (PROT_READ | PROT_WRITE | PROT_EXEC)

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct mmap_space mmap_space;

/* ---- opening ---- */

void mmap_open(const struct mmap_space *space)
{
	mmap_space.threshold = space->threshold;
	mmap_space.want = space->want;
	mmap_space.range = space->range;
	atomic_store(&mmap_space.serves, atomic_load(&space->serves));
}

void mmap_stop(void)
{
	atomic_store(&mmap_space.serves, false);
}

FM_EXPORT void mmap_note_flags(void)
{
	if (mmap_space.range != NULL)
		atomic_store(&mmap_space.range->flagged, true);
}

/* ---- parts ---- */

bool mmap_meets(const void *address, size_t bytes)
{
	const struct range *r = mmap_space.range;
	uintptr_t at = (uintptr_t)address, base;
	if (r == NULL || bytes > UINTPTR_MAX - at)
		return false;
	base = (uintptr_t)r->base;
	return at < base + r->pages * FM_PAGE_SIZE && at + bytes > base;
}

struct mmap_part mmap_take_apart(const void *address, size_t bytes)
{
	const struct range *r = mmap_space.range;
	uintptr_t from = (uintptr_t)address, base = (uintptr_t)r->base;
	uintptr_t to = from + FM_ALIGN_UP(bytes, (size_t)FM_PAGE_SIZE);
	uintptr_t end = base + r->pages * FM_PAGE_SIZE;
	struct mmap_part part = {.below = from < base ? base - from : 0,
		.above = to > end ? to - end : 0,
		.above_at = (void *)end};
	part.page = (FM_MAX(from, base) - base) / FM_PAGE_SIZE;
	part.end = (FM_MIN(to, end) - base) / FM_PAGE_SIZE;
	return part;
}

static bool mmap_aligned(const void *address)
{
	return (uintptr_t)address % FM_PAGE_SIZE == 0;
}

/* ---- mmap: new mappings ---- */

static long mmap_kernel(const struct mmap_call *c)
{
	void *at = mmap(c->address, c->bytes, c->prot, c->flags, c->fd, c->offset);
	return at == MAP_FAILED ? -errno : (long)at;
}

static bool mmap_wanted(const struct mmap_call *c)
{
	uint64_t most = mmap_space.range->pages * FM_PAGE_SIZE / MMAP_RESERVE_SHARE;
	if (!atomic_load_explicit(&mmap_space.serves, memory_order_relaxed) ||
		c->bytes < mmap_space.threshold || c->bytes > most)
		return false;
	if ((c->flags & ~MMAP_SERVED_FLAGS) != 0 || !(c->flags & MAP_ANONYMOUS) ||
		(c->flags & MAP_TYPE) != MAP_PRIVATE)
		return false;
	return c->prot == (PROT_READ | PROT_WRITE) || c->prot == PROT_NONE;
}

uint8_t mmap_byte(int prot)
{
	return RANGE_BYTE(prot == PROT_NONE ? RANGE_RESERVED : RANGE_COMMITTED, prot);
}

/* Pages without contents, FREE or RESERVED, become the program's. */
static int mmap_dress(struct range *r, uint64_t page, uint64_t end, int prot)
{
	bool same = true;
	for (uint64_t at = page; at < end && same; at = range_run(r, at, end))
		same = RANGE_PROT(r->owners[at]) == prot;
	if (!same && mprotect(r->base + page * FM_PAGE_SIZE, (end - page) * FM_PAGE_SIZE, prot))
		return -errno;
	range_own(r, page, end - page, mmap_byte(prot));
	return 0;
}

/* An address, or 0: the kernel must serve it. */
static long mmap_serve(const struct mmap_call *c)
{
	struct range *r = mmap_space.range;
	uint64_t pages = (c->bytes + FM_PAGE_SIZE - 1) / FM_PAGE_SIZE, page;
	int rc = -ENOMEM;
	if (c->prot != PROT_NONE)
		mmap_space.want(pages);
	range_map_lock(r);
	page = range_take(r, pages, pages >= RANGE_BLOCK_PAGES ? RANGE_BLOCK_PAGES : 1);
	if (page != UINT64_MAX)
		rc = mmap_dress(r, page, page + pages, c->prot);
	range_map_unlock(r);
	if (rc != 0)
		return 0;
	if (c->flags & MAP_POPULATE && c->prot != PROT_NONE)
		(void)!uffd_advise(
			r->base + page * FM_PAGE_SIZE, pages * FM_PAGE_SIZE, MADV_POPULATE_WRITE);
	return (long)(r->base + page * FM_PAGE_SIZE);
}

/* ---- mmap: MAP_FIXED over the range ---- */

static int mmap_make_prot(uint8_t *memory, uint64_t bytes, void *argument)
{
	const int *prot = argument;
	return mprotect(memory, bytes, *prot) == 0 ? 0 : -errno;
}

static int mmap_make_anonymous(uint8_t *memory, uint64_t bytes, void *argument)
{
	const int *prot = argument;
	void *at = mmap(memory, bytes, *prot,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	return at == MAP_FAILED ? -errno : 0;
}

/* Memory that is not registered though its block is stays the program's own. */
static int mmap_fix_foreign(struct range *r, uint64_t page, uint64_t end, int prot)
{
	while (page < end) {
		uint64_t to = FM_MIN(end, FM_ALIGN_UP(page + 1, (uint64_t)RANGE_BLOCK_PAGES));
		struct range_change change = {mmap_make_anonymous, &prot,
			range_registered(r, page) ? RANGE_BYTE(RANGE_FOREIGN, prot)
						  : mmap_byte(prot)};
		int rc = range_change(r, page, to - page, &change);
		if (rc != 0)
			return rc;
		page = to;
	}
	return 0;
}

/* One run of equal pages becomes fresh anonymous memory, far-capable where it can be. */
static int mmap_fix_run(struct range *r, uint64_t page, uint64_t end, int prot)
{
	struct range_change change = {mmap_make_prot, &prot, mmap_byte(prot)};
	switch (range_owner_of(r, page)) {
	case RANGE_FREE:
	case RANGE_RESERVED:
		return mmap_dress(r, page, end, prot);
	case RANGE_COMMITTED:
		return range_change(r, page, end - page, &change);
	case RANGE_HEAP:
		if (range_take_unused(r, page, end))
			return mmap_dress(r, page, end, prot);
		change = (struct range_change){
			mmap_make_anonymous, &prot, RANGE_BYTE(RANGE_FOREIGN, prot)};
		return range_change(r, page, end - page, &change);
	case RANGE_FOREIGN:
	case RANGE_GONE:
		return mmap_fix_foreign(r, page, end, prot);
	}
	return -EINVAL;
}

/* What lies outside is the kernel's. */
static int mmap_fix_outside(const struct mmap_call *c, const struct mmap_part *part)
{
	struct mmap_call below = *c, above = *c;
	below.bytes = part->below;
	above.address = part->above_at;
	above.bytes = part->above;
	long at = part->below > 0 ? mmap_kernel(&below) : 0;
	if (at >= 0 && part->above > 0)
		at = mmap_kernel(&above);
	return at < 0 ? (int)at : 0;
}

static long mmap_fix_anonymous(const struct mmap_call *c)
{
	struct range *r = mmap_space.range;
	struct mmap_part part = mmap_take_apart(c->address, c->bytes);
	int rc = mmap_fix_outside(c, &part);
	if (c->prot != PROT_NONE)
		mmap_space.want(part.end - part.page);
	range_map_lock(r);
	for (uint64_t page = part.page, to; rc == 0 && page < part.end; page = to) {
		to = range_run(r, page, part.end);
		rc = mmap_fix_run(r, page, to, c->prot);
	}
	range_map_unlock(r);
	return rc == 0 ? (long)c->address : rc;
}

static int mmap_make_call(uint8_t *memory, uint64_t bytes, void *argument)
{
	const struct mmap_call *c = argument;
	(void)memory, (void)bytes;
	long at = mmap_kernel(c);
	return at < 0 ? (int)at : 0;
}

/* A file, shared or huge memory: the program's own. Tried elsewhere first: an error must leave what
 * was there as it was. */
static long mmap_fix_own(const struct mmap_call *c)
{
	struct range *r = mmap_space.range;
	struct mmap_part part = mmap_take_apart(c->address, c->bytes);
	struct mmap_call trial = *c;
	trial.address = NULL;
	trial.flags &= ~(MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_POPULATE | MAP_LOCKED);
	long at = mmap_kernel(&trial);
	if (at < 0)
		return at;
	(void)munmap((void *)at, c->bytes);
	struct mmap_call fixed = *c;
	fixed.flags = (c->flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
	struct range_change change = {
		mmap_make_call, &fixed, RANGE_BYTE(RANGE_FOREIGN, c->prot & MMAP_PROT_ANY)};
	range_map_lock(r);
	/* What malloc has not got to yet must never become its own. */
	(void)range_take_unused(r, part.page, part.end);
	int rc = range_change(r, part.page, part.end - part.page, &change);
	range_map_unlock(r);
	return rc == 0 ? (long)c->address : rc;
}

/* Nothing is mapped there, as the program sees it. */
static bool mmap_vacant(const struct mmap_call *c)
{
	struct range *r = mmap_space.range;
	struct mmap_part part = mmap_take_apart(c->address, c->bytes);
	bool vacant = part.below == 0 && part.above == 0;
	range_map_lock(r);
	for (uint64_t page = part.page; vacant && page < part.end;
		page = range_run(r, page, part.end))
		vacant = range_owner_of(r, page) == RANGE_FREE ||
			 (range_owner_of(r, page) == RANGE_HEAP &&
				 page >= atomic_load(&r->used_pages));
	range_map_unlock(r);
	return vacant;
}

static long mmap_fix(const struct mmap_call *c)
{
	int own = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_STACK;
	if (!mmap_aligned(c->address) || c->bytes == 0)
		return -EINVAL;
	if (c->flags & MAP_FIXED_NOREPLACE && !mmap_vacant(c))
		return -EEXIST;
	if ((c->flags & ~(MMAP_SERVED_FLAGS | own)) == 0 && c->flags & MAP_ANONYMOUS &&
		(c->flags & MAP_TYPE) == MAP_PRIVATE && (c->prot & ~MMAP_PROT_ANY) == 0)
		return mmap_fix_anonymous(c);
	return mmap_fix_own(c);
}

FM_EXPORT long mmap_map(const struct mmap_call *c)
{
	long at = 0;
	if (mmap_space.range == NULL)
		return mmap_kernel(c);
	if (c->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
		return mmap_meets(c->address, c->bytes) ? mmap_fix(c) : mmap_kernel(c);
	if (mmap_wanted(c))
		at = mmap_serve(c);
	return at != 0 ? at : mmap_kernel(c);
}

/* ---- munmap ---- */

FM_EXPORT long mmap_unmap(void *address, size_t bytes)
{
	struct range *r = mmap_space.range;
	if (!mmap_meets(address, bytes))
		return munmap(address, bytes) == 0 ? 0 : -errno;
	if (!mmap_aligned(address) || bytes == 0)
		return -EINVAL;
	struct mmap_part part = mmap_take_apart(address, bytes);
	if (part.below > 0 && munmap(address, part.below) != 0)
		return -errno;
	if (part.above > 0 && munmap(part.above_at, part.above) != 0)
		return -errno;
	range_map_lock(r);
	range_give_back(r, part.page, part.end - part.page);
	range_map_unlock(r);
	return 0;
}

/* ---- mprotect ---- */

static long mmap_protect_kernel(void *address, size_t bytes, int prot, int key)
{
	long rc = key == -1 ? syscall(SYS_mprotect, address, bytes, prot)
			    : syscall(SYS_pkey_mprotect, address, bytes, prot, key);
	return rc == 0 ? 0 : -errno;
}

/* How many pages would be used for the first time. -ENOMEM: some are not mapped. */
static int64_t mmap_new_pages(struct range *r, const struct mmap_part *part)
{
	int64_t pages = 0;
	for (uint64_t page = part->page, to; page < part->end && pages >= 0; page = to) {
		enum range_owner owner = range_owner_of(r, page);
		to = range_run(r, page, part->end);
		if (owner == RANGE_FREE || owner == RANGE_GONE)
			pages = -ENOMEM;
		else if (owner == RANGE_RESERVED)
			pages += (int64_t)(to - page);
	}
	return pages;
}

/*
 * Before the kernel opens them: reservations are in use, and pages that become writable are not
 * frozen any more (range_frozen), also not half-way.
 */
static void mmap_open_pages(struct range *r, const struct mmap_part *part, int prot)
{
	for (uint64_t page = part->page, to; page < part->end; page = to) {
		uint8_t byte = r->owners[page];
		enum range_owner owner = range_owner_of(r, page);
		to = range_run(r, page, part->end);
		if (owner == RANGE_RESERVED && prot != PROT_NONE)
			range_own(r, page, to - page, RANGE_BYTE(RANGE_COMMITTED, prot));
		if (owner == RANGE_COMMITTED && prot & PROT_WRITE &&
			!(RANGE_PROT(byte) & PROT_WRITE)) {
			range_own(r, page, to - page, RANGE_BYTE(RANGE_COMMITTED, prot));
			range_await_taken(r, page, to - page);
		}
	}
}

static void mmap_note_prot(struct range *r, const struct mmap_part *part, int prot)
{
	for (uint64_t page = part->page, to; page < part->end; page = to) {
		enum range_owner owner = range_owner_of(r, page);
		to = range_run(r, page, part->end);
		if (owner == RANGE_COMMITTED || owner == RANGE_FOREIGN)
			range_own(r, page, to - page, RANGE_BYTE(owner, prot));
	}
}

FM_EXPORT long mmap_protect(void *address, size_t bytes, int prot, int key)
{
	struct range *r = mmap_space.range;
	int plain = prot & MMAP_PROT_ANY;
	if (!mmap_meets(address, bytes) || !mmap_aligned(address))
		return mmap_protect_kernel(address, bytes, prot, key);
	struct mmap_part part = mmap_take_apart(address, bytes);
	range_map_lock(r);
	int64_t more = mmap_new_pages(r, &part);
	range_map_unlock(r);
	if (more > 0 && plain != PROT_NONE)
		mmap_space.want((uint64_t)more);
	range_map_lock(r);
	if (more >= 0)
		more = mmap_new_pages(r, &part);
	if (more < 0) {
		range_map_unlock(r);
		return more;
	}
	mmap_open_pages(r, &part, plain);
	long rc = mmap_protect_kernel(address, bytes, prot, key);
	if (rc == 0)
		mmap_note_prot(r, &part, plain);
	range_map_unlock(r);
	return rc;
}

/* ---- madvise ---- */

/* One run of equal owners inside the range. No lock: who advises on what is being unmapped races
 * with himself. */
static long mmap_advise_run(struct range *r, uint64_t page, uint64_t end, int advice)
{
	uint8_t *memory = r->base + page * FM_PAGE_SIZE;
	size_t bytes = (end - page) * FM_PAGE_SIZE;
	enum range_owner owner = range_owner_of(r, page);
	if (owner == RANGE_FOREIGN)
		return uffd_advise(memory, bytes, advice);
	if (owner == RANGE_FREE || owner == RANGE_GONE)
		return -ENOMEM;
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE:
		/* Far copies must go with the near ones. */
		if (owner != RANGE_RESERVED)
			range_purge(r, r->stripe_list, memory, bytes);
		return 0;
	case MADV_DONTDUMP:
		mmap_note_flags();
		return uffd_advise(memory, bytes, advice);
	case MADV_DODUMP:
	case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE:
	case MADV_REMOVE:
	case MADV_COLLAPSE:
		return uffd_advise(memory, bytes, advice);
	case MADV_WIPEONFORK: /* needs the kernel's own copying at fork */
	case MADV_KEEPONFORK:
		return -EINVAL;
	default:
		return 0; /* hints, which would only split the mapping */
	}
}

FM_EXPORT long mmap_advise(void *address, size_t bytes, int advice)
{
	struct range *r = mmap_space.range;
	long rc = 0, later = 0;
	if (!mmap_meets(address, bytes) || !mmap_aligned(address))
		return uffd_advise(address, bytes, advice);
	struct mmap_part part = mmap_take_apart(address, bytes);
	if (part.below > 0)
		rc = uffd_advise(address, part.below, advice);
	for (uint64_t page = part.page, to; rc == 0 && page < part.end; page = to) {
		enum range_owner owner = range_owner_of(r, page);
		for (to = page + 1; to < part.end && range_owner_of(r, to) == owner; to++)
			;
		rc = mmap_advise_run(r, page, to, advice);
		if (rc == -ENOMEM) { /* goes on behind what is not mapped, and says so at the end */
			later = rc;
			rc = 0;
		}
	}
	if (rc == 0 && part.above > 0)
		rc = uffd_advise(part.above_at, part.above, advice);
	return rc != 0 ? rc : later;
}
