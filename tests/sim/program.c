/*
 * tests/sim/program.c: the program whose memory is far: threads that read, write, touch first and
 * give back pages.
 *
 * Every page has SIM_CHUNKS parts; `truth` knows the version each part holds, version 0 being
 * zeros. A part is stored or looked at in one go (no switch in between), after an access that the
 * simulated MMU allowed: like a CPU's store. While a page is being purged others may still read it
 * (a program racing with itself): then old bytes or zeros are right, anything else is not.
 */
#include <string.h>

#include "base/assert.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

struct program_page {
	uint32_t versions[SIM_CHUNKS];
	uint32_t users; /* threads in the middle of a write */
	bool purging, lost;
};

static struct program_page truth[SIM_PAGES_MAX];
static uint32_t version_last;

uint32_t sim_program_page(uint32_t index)
{
	uint32_t per_stripe = sim.scenario.pages / sim.scenario.stripes;
	return index / per_stripe * STRIPE_BLOCK_PAGES + index % per_stripe;
}

uint32_t sim_program_index(uint32_t page)
{
	uint32_t per_stripe = sim.scenario.pages / sim.scenario.stripes;
	return page / STRIPE_BLOCK_PAGES * per_stripe + page % STRIPE_BLOCK_PAGES;
}

/* ---- what bytes must be ---- */

static void chunk_fill(uint32_t index, unsigned chunk, uint32_t version, uint64_t *words)
{
	uint64_t state = sim_mix(((uint64_t)version << 32) ^ ((uint64_t)index << 4) ^ chunk);
	for (unsigned i = 0; i < SIM_CHUNK_BYTES / 8; i++)
		words[i] = version == 0 ? 0 : (state += 0x9e3779b97f4a7c15ull) ^ i;
}

static bool chunk_is(uint32_t index, unsigned chunk, uint32_t version, const uint8_t *bytes)
{
	uint64_t words[SIM_CHUNK_BYTES / 8];
	chunk_fill(index, chunk, version, words);
	return memcmp(words, bytes, sizeof(words)) == 0;
}

bool sim_chunk_good(uint32_t index, unsigned chunk, const uint8_t *bytes)
{
	const struct program_page *t = &truth[index];
	return chunk_is(index, chunk, t->versions[chunk], bytes) ||
	       (t->purging && chunk_is(index, chunk, 0, bytes));
}

bool sim_page_good(uint32_t index, const uint8_t *bytes)
{
	for (unsigned c = 0; c < SIM_CHUNKS; c++)
		if (!sim_chunk_good(index, c, bytes + (size_t)c * SIM_CHUNK_BYTES))
			return false;
	return true;
}

bool sim_page_is_lost(uint32_t index)
{
	return truth[index].lost;
}

void sim_page_lost(uint32_t index)
{
	truth[index].lost = true;
}

static void program_wrong(uint32_t index, unsigned chunk)
{
	const uint8_t *bytes =
		sim_page_bytes(sim_program_page(index)) + (size_t)chunk * SIM_CHUNK_BYTES;
	uint32_t page = sim_program_page(index), version = truth[index].versions[chunk];
	struct span_word w = span_load(sim.core.catalog.words, (struct page_id){page});
	const char *what = "bytes that were never written there";
	if (chunk_is(index, chunk, 0, bytes))
		what = "zeros";
	for (uint32_t v = 1; v <= version_last; v++)
		if (chunk_is(index, chunk, v, bytes))
			what = v < version ? "an older version" : "a newer version";
	sim_fail("a read of page %u part %u returned %s instead of version %u (word %s flags %x "
		 "gen %u)",
		page, chunk, what, version, span_state_name(span_state(w)), span_flags(w),
		span_gen(w));
}

/* ---- operations ---- */

/* A fault got SIGBUS: right only for a page that was told lost. */
static void program_sigbus(uint32_t index)
{
	sim.sigbus++;
	if (!truth[index].lost)
		sim_fail("SIGBUS at page %u, which was not lost", sim_program_page(index));
}

static void program_read(uint32_t index, unsigned from, unsigned count)
{
	uint32_t page = sim_program_page(index);
	for (unsigned c = from; c < FM_MIN(from + count, (unsigned)SIM_CHUNKS); c++) {
		sim_yield();
		if (!sim_page_access(page, false)) {
			program_sigbus(index);
			return;
		}
		if (!sim_chunk_good(index, c, sim_page_bytes(page) + (size_t)c * SIM_CHUNK_BYTES))
			program_wrong(index, c);
	}
}

static uint32_t program_version(uint32_t index, unsigned chunk)
{
	uint32_t old = truth[index].versions[chunk];
	if (sim.scenario.reuses && old > 1 && sim_below(3) == 0)
		return old - 1 - (uint32_t)sim_below(FM_MIN(old - 1, 2u));
	return ++version_last;
}

static void program_write(uint32_t index, unsigned from, unsigned count)
{
	uint32_t page = sim_program_page(index);
	struct program_page *t = &truth[index];
	t->users++;
	for (unsigned c = from; c < FM_MIN(from + count, (unsigned)SIM_CHUNKS); c++) {
		uint64_t words[SIM_CHUNK_BYTES / 8];
		sim_yield();
		bool good = sim_page_access(page, true);
		if (!good) {
			program_sigbus(index);
			break;
		}
		uint32_t version = program_version(index, c);
		chunk_fill(index, c, version, words);
		memcpy(sim_page_bytes(page) + (size_t)c * SIM_CHUNK_BYTES, words, sizeof(words));
		t->versions[c] = version;
	}
	t->users--;
}

/* Gives pages back; others may read them meanwhile, nobody writes. */
static void program_purge(uint32_t index, uint32_t count)
{
	uint32_t per_stripe = sim.scenario.pages / sim.scenario.stripes;
	count = FM_MIN(count, per_stripe - index % per_stripe);
	for (uint32_t i = 0; i < count; i++)
		if (truth[index + i].users > 0 || truth[index + i].purging)
			count = i;
	if (count == 0)
		return;
	for (uint32_t i = 0; i < count; i++)
		truth[index + i].purging = true;
	sim_promise("a purge from page", sim_program_page(index));
	purge_range(sim.stripe_list, sim_program_page(index), count);
	sim_promise_kept();
	for (uint32_t i = 0; i < count; i++) {
		memset(truth[index + i].versions, 0, sizeof(truth[index + i].versions));
		truth[index + i].purging = truth[index + i].lost = false;
	}
	sim.purges++;
}

/* ---- threads ---- */

static uint32_t program_pick(void)
{
	uint32_t pages = sim.scenario.pages;
	if (sim_below(3) != 0) /* a hot eighth */
		return (uint32_t)sim_below(pages / 8);
	return (uint32_t)sim_below(pages);
}

static void program_run(uint32_t index, bool write)
{
	uint32_t count = 1 + (uint32_t)sim_below(40);
	for (uint32_t i = index; i < FM_MIN(index + count, sim.scenario.pages); i++) {
		if (write && !truth[i].purging)
			program_write(i, 0, SIM_CHUNKS);
		else
			program_read(i, (unsigned)sim_below(SIM_CHUNKS), 2);
	}
}

static void program_step(void)
{
	uint32_t index = program_pick();
	uint64_t dice = sim_below(100);
	unsigned from = (unsigned)sim_below(SIM_CHUNKS);
	if (truth[index].lost && sim_below(2) == 0)
		program_purge(index, 1 + (uint32_t)sim_below(4)); /* what else is it good for */
	else if (dice < 40)
		program_read(index, from, SIM_CHUNKS);
	else if (dice < 76 && !truth[index].purging)
		program_write(index, from, 1 + (unsigned)sim_below(SIM_CHUNKS));
	else if (dice < 86)
		program_run(index, sim_below(2) == 0);
	else if (dice < 92 && sim.scenario.purges)
		program_purge(index, 1 + (uint32_t)sim_below(sim_below(8) == 0 ? 100 : 8));
	else if (dice < 98)
		sim_sleep_ns(sim_below(200 * NS_PER_US));
	else
		sim_sleep_ns(sim_below(20 * NS_PER_MS));
}

static void program_park(void)
{
	if (!sim.park_programs)
		return;
	sim.programs_parked++;
	while (sim.park_programs)
		sim_sleep_ns(NS_PER_MS);
	sim.programs_parked--;
}

void sim_program_main(void *argument)
{
	unsigned number = *(unsigned *)argument;
	for (;;) {
		program_park();
		if (sim.purge_all && number == 0 && !sim.programs_done) {
			for (uint32_t i = 0; i < sim.scenario.pages; i += 50)
				program_purge(i, 50);
			sim.programs_done = true;
		}
		if (sim.steps_done >= sim.steps) {
			sim_sleep_ns(NS_PER_MS);
			continue;
		}
		sim.steps_done++;
		program_step();
	}
}
