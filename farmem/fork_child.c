/*
 * farmem/fork_child.c: what serves far memory in a forked child (fork.c).
 *
 * The same handlers, fault.c and spanset as in the parent, on the copied words, with a userfaultfd,
 * a descriptor table and connections of its own (with the parent's capabilities: they are in the
 * catalog). Groups, columns, nodes and records are read from the shared catalog, as they are now:
 * what is repaired or drained meanwhile is found where it is. Nothing is written there but that a
 * node failed or is slow.
 *
 * It never evicts: what it touches for the first time, brings in or writes to stays near, and so
 * does what it allocates; once it has more near than the budget, that is said. Giving memory back
 * drops its own copy and forgets the word; records and slots are the parent's (core.reader).
 *
 * Threads: main (watches), fault handlers. Callers: fork.c, on the thread that forked, which waits
 * here until its memory is served.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/mem.h"
#include "farmem/runtime.h"

#define FORK_CHILD_TURN_NS (1 * NS_PER_S)
#define FORK_CHILD_LIMIT_PAGES (1ull << 40) /* no budget */

enum { FORK_CHILD_STARTS = 0, FORK_CHILD_SERVED, FORK_CHILD_FAILED };

/* Its own words, epoch lines and counters; the rest of the catalog is shared. */
static int fork_child_catalog(struct runtime *rt)
{
	struct catalog *c = &rt->core.catalog;
	struct catalog_thread *threads = mem_map(CATALOG_THREADS_MAX * sizeof(*threads));
	struct catalog_stats *stats = mem_map(sizeof(*stats));
	if (threads == NULL || stats == NULL)
		return -ENOMEM;
	c->words = rt->fork.words;
	c->threads = threads;
	c->stats = stats;
	c->fd = -1;
	return 0;
}

static void fork_child_budget(struct core *core)
{
	struct budget *b = &core->budget;
	memset(b, 0, sizeof(*b));
	atomic_store(&b->limit_pages, FORK_CHILD_LIMIT_PAGES);
	core->reader = true;
	core->report_suspect = NULL;
	core->report_wanted = NULL;
}

/* Whatever is handed out from now on is ordinary memory. */
static void fork_child_range(struct runtime *rt)
{
	struct range *r = &rt->range;
	uint64_t first = rt->fork.end / RANGE_BLOCK_PAGES;
	uint64_t end = r->pages / RANGE_BLOCK_PAGES;
	uint64_t whole = FM_MIN(FM_ALIGN_UP(first, (uint64_t)FM_PAGE_SIZE), end);
	memset(r->blocks + first, RANGE_FRESH, whole - first);
	if (whole < end && uffd_advise(r->blocks + whole, end - whole, MADV_DONTNEED) != 0)
		memset(r->blocks + whole, RANGE_FRESH, end - whole);
	for (unsigned i = 0; i < rt->stripe_count; i++)
		atomic_store(&rt->stripes[i].pages_end, rt->fork.end);
}

static int fork_child_register(struct runtime *rt, uint64_t page, uint64_t count)
{
	int rc = 0;
	while (rc == 0 && count > 0) {
		uint64_t now = count;
		if (rt->stripe_count > 1)
			now = FM_MIN(count, STRIPE_BLOCK_PAGES - page % STRIPE_BLOCK_PAGES);
		unsigned stripe = stripe_of_page(rt->stripe_count, (uint32_t)page);
		rc = uffd_register(&rt->uffds[stripe], page, now);
		page += now;
		count -= now;
	}
	return rc;
}

static int fork_child_handlers(struct runtime *rt)
{
	unsigned count = rt->stripe_count * rt->handlers_per_stripe;
	int rc = 0;
	rt->handlers = mem_map(count * sizeof(*rt->handlers));
	if (rt->handlers == NULL)
		return -ENOMEM;
	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = handler_open(rt, &rt->handlers[i], &rt->stripes[i / rt->handlers_per_stripe],
			i % rt->handlers_per_stripe);
	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = handler_start(&rt->handlers[i]);
	return rc;
}

static int fork_child_serve(struct runtime *rt)
{
	/* A table of our own before anything is closed by a number that means something else here:
	 * that of the parent's log. */
	if (syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_UNSHARE) != 0)
		return -errno;
	(void)!log_open(NULL);
	int rc = runtime_own_descriptors(rt);
	for (unsigned i = 0; rc == 0 && i < rt->stripe_count; i++)
		rc = uffd_reopen(&rt->uffds[i]);
	if (rc == 0)
		rc = fork_each_registered(rt, fork_child_register);
	if (rc == 0)
		rc = fork_child_handlers(rt);
	return rc;
}

static void fork_child_watch(const struct runtime *rt, bool *said)
{
	const struct budget *b = &rt->core.budget;
	uint64_t near = (uint64_t)FM_MAX(atomic_load(&b->near_pages), (int64_t)0) * FM_PAGE_SIZE;
	if (*said || rt->config.local.permille != 0 || near <= rt->config.local.bytes)
		return;
	*said = true;
	log_warn("fork: a child has brought more of its parent's memory near than the budget "
		 "allows, and goes on: what it has stays near pid=%d",
		(int)getpid());
}

static void *fork_child_main(void *argument)
{
	struct runtime *rt = argument;
	_Atomic uint32_t never = 0;
	bool said = false;
	runtime_thread_begin("farmem");
	rt->fork.child_error = fork_child_serve(rt);
	atomic_store(&rt->fork.child_state,
		rt->fork.child_error == 0 ? FORK_CHILD_SERVED : FORK_CHILD_FAILED);
	futex_wake(&rt->fork.child_state, INT32_MAX);
	for (;;) { /* threads of the runtime do not end: runtime.h */
		(void)futex_wait(&never, 0, FORK_CHILD_TURN_NS);
		fork_child_watch(rt, &said);
	}
	return NULL;
}

int fork_child_start(struct runtime *rt)
{
	int rc = fork_child_catalog(rt);
	if (rc != 0)
		return rc;
	fork_child_budget(&rt->core);
	fork_child_range(rt);
	atomic_store(&rt->fork.child_state, FORK_CHILD_STARTS);
	atomic_store(&rt->state, RUNTIME_FORKED);
	rc = runtime_thread_start(fork_child_main, rt);
	while (rc == 0 && atomic_load(&rt->fork.child_state) == FORK_CHILD_STARTS)
		(void)futex_wait(&rt->fork.child_state, FORK_CHILD_STARTS, UINT64_MAX);
	return rc != 0 ? rc : rt->fork.child_error;
}
