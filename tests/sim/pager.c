/*
 * tests/sim/pager.c: page tables, faults and staging memory: the simulated farmem/pager.h.
 *
 * Behaves like userfaultfd does (see farmem/uffd.c): pages go one by one, with other coroutines in
 * between; waking takes unread messages of the woken off the queue; a message once read may be
 * stale. Stricter than the kernel in what must never happen: reading a missing page, taking one
 * that is not there, staging that is not empty. What is dropped or moved away is scribbled over at
 * its old place.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

#define SIM_FAULTS_MAX 256
#define SIM_SCRIBBLE 0xd5
#define SIM_RANGE_PAGES (SIM_STRIPES_MAX * STRIPE_BLOCK_PAGES)

struct sim_pager_stripe {
	struct pager pager;
	bool *staged;
	struct sim_fault queue[SIM_FAULTS_MAX]; /* not read yet */
	unsigned queue_count;
	struct sim_coro *sleepers[SIM_HANDLERS_MAX];
	unsigned sleepers_count;
};

struct sim_waiter {
	struct sim_coro *coro;
	uint32_t page;
};

static struct sim_pager_stripe stripes[SIM_STRIPES_MAX];
static struct sim_page *pages;
static uint8_t *memory;
static struct sim_waiter waiters[SIM_PROGRAMS_MAX];

struct sim_page *sim_page(uint32_t page)
{
	FM_ASSERT_LT(page, SIM_RANGE_PAGES);
	return &pages[page];
}

uint8_t *sim_page_bytes(uint32_t page)
{
	return memory + (size_t)page * FM_PAGE_SIZE;
}

static struct sim_pager_stripe *stripe_of(struct pager *p)
{
	return FM_CONTAINER_OF(p, struct sim_pager_stripe, pager);
}

static uint8_t *staged_bytes(struct pager *p, uint32_t slot)
{
	return p->staging + (size_t)slot * FM_PAGE_SIZE;
}

/* ---- faults ---- */

static void pager_wake_page(uint32_t page)
{
	struct sim_pager_stripe *s = &stripes[stripe_of_page(sim.scenario.stripes, page)];
	for (unsigned i = 0; i < SIM_PROGRAMS_MAX; i++) {
		if (waiters[i].coro == NULL || waiters[i].page != page)
			continue;
		unsigned kept = 0;
		for (unsigned j = 0; j < s->queue_count; j++)
			if (s->queue[j].coro != waiters[i].coro)
				s->queue[kept++] = s->queue[j];
		s->queue_count = kept;
		sim_wake(waiters[i].coro);
		waiters[i].coro = NULL;
	}
}

static void pager_raise(uint32_t page, bool write_protected)
{
	struct sim_pager_stripe *s = &stripes[stripe_of_page(sim.scenario.stripes, page)];
	unsigned at = 0;
	while (at < SIM_PROGRAMS_MAX && waiters[at].coro != NULL)
		at++;
	FM_ASSERT_LT(at, SIM_PROGRAMS_MAX);
	FM_ASSERT_LT(s->queue_count, SIM_FAULTS_MAX);
	waiters[at] = (struct sim_waiter){sim_self(), page};
	s->queue[s->queue_count++] = (struct sim_fault){page, write_protected, sim_self()};
	for (unsigned i = 0; i < s->sleepers_count; i++)
		sim_wake(s->sleepers[i]);
	s->sleepers_count = 0;
	sim_block(CLOCK_NEVER_NS);
}

bool sim_page_access(uint32_t page, bool write)
{
	struct sim_page *p = sim_page(page);
	sim_promise(write ? "a write of page" : "a read of page", page);
	while (!p->poisoned && (!p->present || (write && p->protect)))
		pager_raise(page, p->present);
	sim_promise_kept();
	return !p->poisoned;
}

bool sim_fault_read(unsigned stripe, uint32_t *page, bool *write_protected)
{
	struct sim_pager_stripe *s = &stripes[stripe];
	if (s->queue_count == 0)
		return false;
	unsigned at = (unsigned)sim_below(s->queue_count);
	*page = s->queue[at].page;
	*write_protected = s->queue[at].write_protected;
	s->queue[at] = s->queue[--s->queue_count];
	return true;
}

bool sim_faults_waiting(unsigned stripe)
{
	return stripes[stripe].queue_count > 0;
}

void sim_handler_sleeps(unsigned stripe, struct sim_coro *handler)
{
	struct sim_pager_stripe *s = &stripes[stripe];
	if (s->queue_count > 0)
		return;
	s->sleepers[s->sleepers_count++] = handler;
	sim_block(CLOCK_NEVER_NS);
}

/* ---- operations ---- */

static void page_set(uint32_t page, const uint8_t *bytes)
{
	struct sim_page *p = sim_page(page);
	memcpy(sim_page_bytes(page), bytes, FM_PAGE_SIZE);
	p->present = true;
	p->protect = false;
	p->shared = sim_chance(2000);
}

static void page_clear(uint32_t page)
{
	struct sim_page *p = sim_page(page);
	if (p->present)
		memset(sim_page_bytes(page), SIM_SCRIBBLE, FM_PAGE_SIZE);
	p->present = p->protect = p->poisoned = p->shared = false;
}

static void staging_clear(struct pager *p, uint32_t slot)
{
	struct sim_pager_stripe *s = stripe_of(p);
	if (s->staged[slot])
		memset(staged_bytes(p, slot), SIM_SCRIBBLE, FM_PAGE_SIZE);
	s->staged[slot] = false;
}

static int sim_take(struct pager *p, uint32_t page, uint32_t count, uint32_t slot, uint32_t *done)
{
	struct sim_pager_stripe *s = stripe_of(p);
	*done = 0;
	for (; *done < count; (*done)++) {
		uint32_t from = page + *done, to = slot + *done;
		sim_yield();
		if (!sim.calm && sim_chance(1000))
			return -EAGAIN;
		if (!sim_page(from)->present)
			return -ENOENT;
		if (s->staged[to])
			sim_fail("staging slot %u is taken twice (page %u)", to, from);
		if (sim_page(from)->pinned || sim_page(from)->shared)
			return -EBUSY;
		memcpy(staged_bytes(p, to), sim_page_bytes(from), FM_PAGE_SIZE);
		s->staged[to] = true;
		page_clear(from);
	}
	return 0;
}

static int sim_give_back(struct pager *p, uint32_t slot, uint32_t page)
{
	struct sim_pager_stripe *s = stripe_of(p);
	sim_yield();
	if (!s->staged[slot])
		sim_fail(
			"a page is given back from an empty staging slot %u (page %u)", slot, page);
	if (sim_page(page)->present)
		return -EEXIST;
	if (!sim.calm && sim_chance(5000))
		return -EBUSY;
	page_set(page, staged_bytes(p, slot));
	staging_clear(p, slot);
	pager_wake_page(page);
	return 0;
}

static void sim_unshare(struct pager *p, uint32_t page, uint32_t count)
{
	(void)p;
	sim_yield();
	for (uint32_t i = 0; i < count; i++)
		sim_page(page + i)->shared = false;
}

static int sim_install(struct pager *p, uint32_t page, const uint8_t *bytes)
{
	uint8_t copy[FM_PAGE_SIZE];
	(void)p;
	/* The kernel copies first, then maps: the source must hold still all the while. */
	memcpy(copy, bytes, FM_PAGE_SIZE / 2);
	if (sim_below(16) == 0)
		sim_sleep_ns(
			1 + sim_below(4 * NS_PER_MS)); /* somebody else holds the address space */
	else
		sim_yield();
	memcpy(copy + FM_PAGE_SIZE / 2, bytes + FM_PAGE_SIZE / 2, FM_PAGE_SIZE / 2);
	bool present = sim_page(page)->present;
	if (!present)
		page_set(page, copy);
	if (sim.bug != BUG_LOST_WAKE || sim_below(50) != 0)
		pager_wake_page(page);
	return present ? -EEXIST : 0;
}

static int sim_install_zero(struct pager *p, uint32_t page, uint32_t count, uint32_t *done)
{
	static const uint8_t zeros[FM_PAGE_SIZE];
	(void)p;
	for (*done = 0; *done < FM_MIN(count, 16u); (*done)++) {
		sim_yield();
		if (sim_page(page + *done)->present) {
			pager_wake_page(page + *done);
			return -EEXIST;
		}
		if (sim_page(page + *done)->poisoned)
			sim_fail("zeros for a poisoned page %u", page + *done);
		page_set(page + *done, zeros);
		pager_wake_page(page + *done);
	}
	return 0;
}

static int sim_protect(struct pager *p, uint32_t page, uint32_t count, bool on)
{
	(void)p;
	for (uint32_t i = page; i < page + count; i++) {
		sim_yield();
		if (sim_page(i)->present)
			sim_page(i)->protect = on;
		if (!on)
			pager_wake_page(i);
	}
	return 0;
}

static int sim_read(struct pager *p, uint32_t page, uint32_t count, uint8_t *bytes)
{
	uint32_t slot = (uint32_t)((bytes - p->staging) / FM_PAGE_SIZE);
	for (uint32_t i = 0; i < count; i++) {
		if (stripe_of(p)->staged[slot + i])
			sim_fail("staging slot %u is taken twice (page %u)", slot + i, page + i);
		for (unsigned part = 0; part < SIM_CHUNKS; part++) {
			size_t at = (size_t)part * SIM_CHUNK_BYTES;
			sim_yield();
			if (!sim_page(page + i)->present)
				sim_fail("a missing page is read: %u", page + i);
			memcpy(bytes + (size_t)i * FM_PAGE_SIZE + at, sim_page_bytes(page + i) + at,
				SIM_CHUNK_BYTES);
		}
		stripe_of(p)->staged[slot + i] = true;
	}
	return 0;
}

static int sim_drop(struct pager *p, uint32_t page, uint32_t count)
{
	(void)p;
	for (uint32_t i = page; i < page + count; i++) {
		sim_yield();
		if (sim.bug == BUG_KEEP_BYTES && sim_below(20) == 0)
			continue;
		page_clear(i);
	}
	return 0;
}

static int sim_drop_staging(struct pager *p, uint32_t slot, uint32_t count)
{
	for (uint32_t i = slot; i < slot + count; i++) {
		sim_yield();
		staging_clear(p, i);
	}
	return 0;
}

static void sim_wake_pages(struct pager *p, uint32_t page, uint32_t count)
{
	(void)p;
	sim_yield();
	for (uint32_t i = page; i < page + count; i++)
		pager_wake_page(i);
}

/* As the way without UFFDIO_POISON does it: whatever is there is replaced. */
static int sim_poison(struct pager *p, uint32_t page)
{
	(void)p;
	sim_yield();
	page_clear(page);
	sim_page(page)->poisoned = true;
	pager_wake_page(page);
	return 0;
}

static bool sim_present(struct pager *p, uint32_t page)
{
	(void)p;
	sim_yield();
	return sim_page(page)->present;
}

static const struct pager_ops sim_pager_ops = {
	.take = sim_take,
	.give_back = sim_give_back,
	.unshare = sim_unshare,
	.install = sim_install,
	.install_zero = sim_install_zero,
	.protect = sim_protect,
	.read = sim_read,
	.drop = sim_drop,
	.drop_staging = sim_drop_staging,
	.wake = sim_wake_pages,
	.poison = sim_poison,
	.present = sim_present,
};

/* ---- opening and closing ---- */

static void *pager_map(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	FM_ASSERT(at != MAP_FAILED);
	return at;
}

void sim_pager_open(unsigned stripe, bool moves, uint32_t staging_slots)
{
	struct sim_pager_stripe *s = &stripes[stripe];
	uint32_t slots = staging_slots + STAGE_PRIVATE_SLOTS;
	if (memory == NULL) {
		memory = pager_map((size_t)SIM_RANGE_PAGES * FM_PAGE_SIZE);
		pages = pager_map(SIM_RANGE_PAGES * sizeof(*pages));
	}
	*s = (struct sim_pager_stripe){
		.pager = {.ops = &sim_pager_ops, .moves = moves, .staging_slots = staging_slots}};
	s->pager.staging = pager_map((size_t)slots * FM_PAGE_SIZE);
	s->staged = calloc(slots, sizeof(bool));
	FM_ASSERT(s->staged != NULL);
}

void sim_pager_close(unsigned stripe)
{
	struct sim_pager_stripe *s = &stripes[stripe];
	munmap(s->pager.staging,
		(size_t)(s->pager.staging_slots + STAGE_PRIVATE_SLOTS) * FM_PAGE_SIZE);
	free(s->staged);
}

struct pager *sim_pager(unsigned stripe)
{
	return &stripes[stripe].pager;
}

bool sim_staged(unsigned stripe, uint32_t slot)
{
	return stripes[stripe].staged[slot];
}
