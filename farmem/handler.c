/*
 * farmem/handler.c: fault handler threads: read faults from a stripe's userfaultfd and serve them (fault.c).
 *
 * A handler spins for a while after the last fault (config.spin_ns): a sleeping one costs a wake-up per fault, which
 * dominates everything else (MEASURED.md). It never touches far-capable memory and never calls malloc.
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
#define HANDLER_YIELD_NS (20 * NS_PER_US) /* pending faults wait for others: let them run */

static void handler_report_loss(struct fault_handler *h, uint32_t page, uint32_t group)
{
	struct runtime *rt = h->owner;
	const struct catalog_group *g = &rt->core.catalog.groups[group];
	char hosts[512];
	size_t used = 0;
	hosts[0] = 0;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct catalog_node *n = &rt->core.catalog.nodes[g->columns[pos].node];
		if (g->columns[pos].lost || n->state != NODE_UP)
			used += (size_t)snprintf(hosts + used, sizeof(hosts) - used, " %s", n->name);
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
	if (fault_ready(&t->fault) && t->fault.pending_count + HANDLER_READ_MAX <= FAULT_PENDING_MAX)
		count = uffd_read(t->uffd, faults, HANDLER_READ_MAX);
	if (count < 0)
		FM_PANIC("handler: cannot read the userfaultfd: %d", count); /* invariant 9 */
	for (int i = 0; i < count; i++)
		fault_take(&t->fault, faults[i].page, faults[i].write_protected);
	return fault_progress(&t->fault) || count > 0;
}

static void *handler_main(void *argument)
{
	struct runtime_handler *t = argument;
	uint64_t spin_until = 0;
	runtime_thread_begin("farmem-fault");
	for (;;) {
		if (handler_turn(t)) {
			spin_until = clock_now_ns() + t->runtime->config.spin_ns;
			continue;
		}
		uint64_t now = clock_now_ns();
		if (!fault_idle(&t->fault)) {
			if (t->fault.pending_count > 0 || now > spin_until)
				clock_pause(now + HANDLER_YIELD_NS);
		} else if (now < spin_until) {
			fm_cpu_relax();
		} else {
			uffd_sleep(t->uffd, -1);
		}
	}
	return NULL;
}

int handler_open(struct runtime *rt, struct runtime_handler *t, struct stripe *st, unsigned index)
{
	struct spanset_io_options options = {.name = "fault",
		.spin_ns = rt->config.spin_ns,
		.fetch_deadline_ns = rt->config.fetch_deadline_ns,
		.store_deadline_ns = rt->config.store_deadline_ns,
		.stores = false};
	t->runtime = rt;
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
