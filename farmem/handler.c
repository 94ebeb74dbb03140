/*
 * farmem/handler.c: fault handler threads: read faults from a stripe's userfaultfd and serve them
 * (fault.c).
 *
 * Where a handler runs decides what a fault costs (measured on 2 vCPUs, 4 KiB from local memory,
 * p50): on the faulting thread's own CPU 4.3 us, asleep on another 30 us, spinning on another 10-22
 * us. The kernel does not say who may answer, so each CPU has a sleeping handler pinned to it: the
 * one on the faulting CPU runs the moment the thread blocks; the others come too late and find
 * nothing. No handler spins while idle: that would take the CPU from the program. It never touches
 * far-capable memory and never calls malloc.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "farmem/runtime.h"

#define HANDLER_READ_MAX 8u
#define HANDLER_PATIENCE_NS (200 * NS_PER_US)
#define HANDLER_PENDING_NS (300 * NS_PER_US)
#define HANDLER_LINGER_NS (1 * NS_PER_MS)

static void handler_report_loss(struct fault_handler *h, uint32_t page, uint32_t group)
{
	struct runtime *rt = h->owner;
	const struct catalog_group *g = &rt->core.catalog.groups[group];
	char hosts[512];
	size_t used = 0;
	hosts[0] = 0;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct catalog_node *n =
			&rt->core.catalog.nodes[catalog_column_node(&g->columns[pos])];
		if (g->columns[pos].lost || n->state != NODE_UP)
			used += (size_t)snprintf(
				hosts + used, sizeof(hosts) - used, " %s", n->name);
		if (used >= sizeof(hosts))
			break;
	}
	log_ratelimited(LOG_ERROR,
		"memory at %p is lost: more than %u of %u hosts failed:%s; the access gets SIGBUS",
		(void *)(rt->range.base + (uint64_t)page * FM_PAGE_SIZE), g->m,
		(unsigned)g->k + g->m, hosts);
}

static void handler_report_full(struct fault_handler *h)
{
	(void)h;
	log_error("no memory node has room left and --on-full is kill: ending the program");
	kill(getpid(), SIGKILL);
}

/* One turn. False: nothing to do. */
static bool handler_turn(struct runtime_handler *t)
{
	struct uffd_fault faults[HANDLER_READ_MAX];
	int count = 0;
	if (fault_ready(&t->fault) &&
		t->fault.pending_count + HANDLER_READ_MAX <= FAULT_PENDING_MAX)
		count = uffd_read(t->uffd, faults, HANDLER_READ_MAX);
	if (count < 0)
		FM_PANIC("handler: cannot read the userfaultfd: %d", count); /* invariant 9 */
	for (int i = 0; i < count; i++) {
		if (fm_unlikely(t->profile != NULL))
			profile_take(t->profile, faults[i].page, faults[i].thread);
		fault_take(&t->fault, faults[i].page, faults[i].write_protected);
	}
	bool moved = fault_progress(&t->fault) || count > 0;
	if (fm_unlikely(t->profile != NULL))
		profile_look(t->profile);
	return moved;
}

/* The index-th CPU this process may run on; wraps. */
static void handler_pin(unsigned index)
{
	cpu_set_t allowed, one;
	if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
		return;
	unsigned want = index % (unsigned)CPU_COUNT(&allowed);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || want-- != 0)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		(void)sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

/*
 * Something is on its way. A read takes microseconds: look again and again, but yield in between:
 * on a small machine the node that is to answer may be waiting for this very CPU (without: 400
 * instead of 11,000 operations a second). When it takes longer (a dead node, nodes out of room, a
 * distant node) the handler sleeps.
 */
static void handler_wait(struct runtime_handler *t, uint64_t *since_ns)
{
	uint64_t now = clock_now_ns();
	bool fetches = spanset_fetches(t->fault.io) > 0;
	if (!fetches && t->fault.pending_count == 0) {
		uffd_sleep(t->uffd, HANDLER_LINGER_NS); /* nobody waits for what lost to a hedge */
		return;
	}
	if (*since_ns == 0)
		*since_ns = now;
	if (now - *since_ns < (fetches ? t->runtime->config.spin_ns : HANDLER_PATIENCE_NS))
		sched_yield();
	else if (!fetches || !spanset_fetch_wait_any(t->fault.io, now + HANDLER_PENDING_NS))
		uffd_sleep(t->uffd, HANDLER_PENDING_NS);
}

static void *handler_main(void *argument)
{
	struct runtime_handler *t = argument;
	uint64_t moved_ns = 0;
	runtime_thread_begin("farmem-fault");
	handler_pin(t->index);
	for (;;) {
		bool moved = handler_turn(t);
		if (moved)
			moved_ns = 0;
		if (fault_idle(&t->fault))
			uffd_sleep(t->uffd, UINT64_MAX); /* at once back when more faults wait */
		else if (!moved)
			handler_wait(t, &moved_ns);
	}
	return NULL;
}

int handler_open(struct runtime *rt, struct runtime_handler *t, struct stripe *st, unsigned index)
{
	struct spanset_io_options options = {.name = "fault",
		.spin_ns = 0, /* handler_wait does it */
		.fetch_deadline_ns = rt->config.fetch_deadline_ns,
		.store_deadline_ns = rt->config.store_deadline_ns,
		.stores = false,
		.hedges = true};
	t->runtime = rt;
	t->index = index;
	t->uffd = &rt->uffds[st->index];
	t->fault.st = st;
	t->fault.owner = rt;
	t->fault.private_slot = st->pager->staging_slots + index;
	t->fault.ahead_max = (uint32_t)FM_MIN(rt->config.read_ahead, (uint64_t)FAULT_AHEAD_MAX);
	t->fault.zero_expected = UINT32_MAX;
	t->fault.report_loss = handler_report_loss;
	t->fault.report_full = handler_report_full;
	int rc = epoch_register(&rt->core, "fault", &t->fault.epoch);
	if (rc == 0)
		rc = spanset_io_open(&rt->core, &options, &t->fault.io);
	return rc;
}

int handler_start(struct runtime_handler *t)
{
	return runtime_thread_start(handler_main, t);
}
