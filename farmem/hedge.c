/*
 * farmem/hedge.c: see hedge.h.
 *
 * Called on the fault path: no lock, no allocation; the log is spoken to only when a node becomes
 * slow or well again.
 */
#include "farmem/hedge.h"

#include "base/clock.h"
#include "base/log.h"

#define HEDGE_USUAL_SHIFT 4u /* weight of a sample: 1/16 */
#define HEDGE_TAIL_SHIFT 9u  /* one step of the percentile: 1/512 of it; 19 up for 1 down: 95 % */
#define HEDGE_TAIL_UP 19u

void hedge_open(struct hedge *h)
{
	h->credit = HEDGE_BURST * HEDGE_READS_PER_TOKEN;
}

bool hedge_group_slow(const struct core *core, uint32_t group, uint64_t now_ns)
{
	const struct catalog_group *g = &core->catalog.groups[group];
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		uint32_t node = catalog_column_node(&g->columns[pos]);
		if (fm_unlikely(atomic_load_explicit(&core->catalog.nodes[node].slow_until_ns,
					memory_order_relaxed) > now_ns))
			return true;
	}
	return false;
}

bool hedge_spend(struct hedge *h)
{
	if (h->credit < HEDGE_READS_PER_TOKEN)
		return false;
	h->credit -= HEDGE_READS_PER_TOKEN;
	return true;
}

bool hedge_has_others(const struct core *core, uint32_t group, unsigned pos)
{
	const struct catalog_group *g = &core->catalog.groups[group];
	unsigned count = 0;
	for (unsigned i = 0; i < (unsigned)g->k + g->m; i++) {
		const struct catalog_column *c = &g->columns[i];
		uint32_t node = catalog_column_node(c);
		count += i != pos && !atomic_load_explicit(&c->lost, memory_order_relaxed) &&
			 atomic_load_explicit(&core->catalog.nodes[node].state,
				 memory_order_relaxed) == NODE_UP &&
			 !hedge_node_slow(core, node);
	}
	return count >= g->k;
}

/* ---- what the others take ---- */

struct hedge_others {
	unsigned count;
	uint32_t usual_ns, tail_ns; /* medians; the lower one of an even number */
};

static void hedge_insert(uint32_t *sorted, unsigned count, uint32_t value)
{
	unsigned at = count;
	for (; at > 0 && sorted[at - 1] > value; at--)
		sorted[at] = sorted[at - 1];
	sorted[at] = value;
}

static struct hedge_others hedge_look(
	const struct hedge *h, const struct core *core, const struct hedge_read *read)
{
	const struct catalog_group *g = &core->catalog.groups[read->group];
	uint32_t usual[EC_N_MAX], tail[EC_N_MAX];
	unsigned count = 0;
	for (unsigned i = 0; i < (unsigned)g->k + g->m && i < EC_N_MAX; i++) {
		uint32_t node = catalog_column_node(&g->columns[i]);
		const struct hedge_node *n = &h->nodes[node];
		if (i == read->pos || node == read->node || n->samples < HEDGE_SAMPLES_MIN)
			continue;
		hedge_insert(usual, count, n->usual_ns);
		hedge_insert(tail, count, n->tail_ns);
		count++;
	}
	if (count == 0)
		return (struct hedge_others){0, 0, 0};
	return (struct hedge_others){count, usual[(count - 1) / 2], tail[(count - 1) / 2]};
}

static uint64_t hedge_extra(const struct hedge_read *read)
{
	return (read->pages - 1) * HEDGE_PAGE_NS;
}

/* More than `factor` times what the others usually take, and more than they take at their worst.
 * Nothing under the floor is worth k reads. */
static uint64_t hedge_bound(
	const struct hedge_others *others, const struct hedge_read *read, unsigned factor)
{
	uint64_t bound = FM_MAX(
		(uint64_t)others->usual_ns * factor, (uint64_t)others->tail_ns * HEDGE_TAIL_FACTOR);
	return FM_MAX(bound, HEDGE_FLOOR_NS) + hedge_extra(read);
}

uint64_t hedge_after(const struct hedge *h, const struct core *core, const struct hedge_read *read)
{
	struct hedge_others others = hedge_look(h, core, read);
	if (others.count == 0)
		return HEDGE_BLIND_NS + hedge_extra(read);
	return hedge_bound(&others, read, HEDGE_USUAL_FACTOR);
}

static bool hedge_exceeds(const struct hedge *h, const struct core *core,
	const struct hedge_read *read, uint64_t took_ns, unsigned factor)
{
	if (fm_likely(took_ns <= HEDGE_FLOOR_NS))
		return false;
	struct hedge_others others = hedge_look(h, core, read);
	return others.count > 0 && took_ns > hedge_bound(&others, read, factor);
}

/* ---- slow and well ---- */

static void hedge_pause(struct hedge_node *n, struct core *core, uint32_t node, uint64_t now_ns)
{
	bool first =
		n->pause_ns == 0 || (n->well_ns != 0 && now_ns - n->well_ns > HEDGE_FORGIVE_NS);
	n->pause_ns = first ? HEDGE_PAUSE_MIN_NS : FM_MIN(2 * n->pause_ns, HEDGE_PAUSE_MAX_NS);
	n->well_ns = 0;
	n->points = 0;
	n->probes_fast = 0;
	atomic_store_explicit(&core->catalog.nodes[node].slow_until_ns, now_ns + n->pause_ns,
		memory_order_relaxed);
}

static void hedge_point(
	struct hedge *h, struct core *core, const struct hedge_read *read, uint64_t now_ns)
{
	struct hedge_node *n = &h->nodes[read->node];
	if (read->begun_ns < n->point_ns) /* invariant 3 */
		return;
	n->point_ns = now_ns;
	n->points = (uint16_t)(n->points + HEDGE_POINTS);
	if (n->points < HEDGE_SLOW_AT || hedge_node_slow(core, read->node))
		return;
	log_ratelimited(LOG_INFO, "hedge: reads go around a slow node node=%s usual_us=%u",
		core->catalog.nodes[read->node].name, n->usual_ns / 1000);
	hedge_pause(n, core, read->node, now_ns);
}

enum hedge_way hedge_choose(
	struct hedge *h, const struct core *core, uint32_t node, uint64_t now_ns)
{
	struct hedge_node *n = &h->nodes[node];
	uint64_t until = atomic_load_explicit(
		&core->catalog.nodes[node].slow_until_ns, memory_order_relaxed);
	if (until == 0) /* another thread has found it well */
		return HEDGE_DIRECT;
	if (now_ns < until || n->probing || !hedge_spend(h))
		return HEDGE_AROUND;
	n->probing = 1;
	return HEDGE_PROBE;
}

/* ---- learning ---- */

static void hedge_sample(struct hedge_node *n, uint32_t ns)
{
	if (fm_unlikely(n->samples == 0))
		n->usual_ns = n->tail_ns = ns;
	n->samples += n->samples < HEDGE_SAMPLES_MIN;
	n->usual_ns = (uint32_t)((int64_t)n->usual_ns +
				 ((int64_t)ns - (int64_t)n->usual_ns) / (1 << HEDGE_USUAL_SHIFT));
	uint32_t step = (n->tail_ns >> HEDGE_TAIL_SHIFT) + 1;
	if (ns > n->tail_ns)
		n->tail_ns += FM_MIN(step * HEDGE_TAIL_UP, ns - n->tail_ns);
	else
		n->tail_ns -= FM_MIN(step, n->tail_ns - ns);
}

static uint64_t hedge_took(const struct hedge_read *read, uint64_t now_ns)
{
	return FM_MIN(now_ns - read->begun_ns, (uint64_t)UINT32_MAX);
}

void hedge_learn(struct hedge *h, struct core *core, const struct hedge_read *read, uint64_t now_ns)
{
	struct hedge_node *n = &h->nodes[read->node];
	uint64_t took = hedge_took(read, now_ns);
	if (hedge_exceeds(h, core, read, took, HEDGE_SLOW_FACTOR))
		hedge_point(h, core, read, now_ns);
	else
		n->points = (uint16_t)(n->points - (n->points > 0));
	if (read->pages == 1)
		hedge_sample(n, (uint32_t)took);
}

void hedge_beaten(
	struct hedge *h, struct core *core, const struct hedge_read *read, uint64_t now_ns)
{
	hedge_point(h, core, read, now_ns);
}

void hedge_probed(struct hedge *h, struct core *core, const struct hedge_read *read,
	uint64_t now_ns, bool came)
{
	struct hedge_node *n = &h->nodes[read->node];
	uint64_t took = hedge_took(read, now_ns);
	struct hedge_read all = *read; /* its hedge was posted right behind it */
	all.pages += core->catalog.groups[read->group].k;
	n->probing = 0;
	if (!came || hedge_exceeds(h, core, &all, took, HEDGE_WELL_FACTOR)) {
		hedge_pause(n, core, read->node, now_ns);
		return;
	}
	hedge_sample(n, (uint32_t)took);
	if (++n->probes_fast < HEDGE_PROBES_WELL)
		return;
	n->probes_fast = 0;
	n->points = 0;
	n->well_ns = now_ns;
	n->samples = 0; /* what it took while it was slow is no measure for others */
	atomic_store_explicit(
		&core->catalog.nodes[read->node].slow_until_ns, 0, memory_order_relaxed);
	log_ratelimited(LOG_INFO, "hedge: a slow node is well again node=%s",
		core->catalog.nodes[read->node].name);
}
