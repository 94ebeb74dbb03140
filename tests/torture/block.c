/*
 * tests/torture/block.c: blocks, by every way a C program gets, resizes and gives back memory.
 *
 * Called by torture.c, one thread per slot; the exchange is shared. Lock: exchange.mutex, a leaf.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "torture.h"

/* Blocks on their way from one thread to another, which will free them. */
static struct {
	pthread_mutex_t mutex;
	unsigned count;
	struct block blocks[EXCHANGE_MAX];
} exchange = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Most blocks are small, most bytes are in large ones, as in real programs. */
static size_t block_draw_size(struct rng *rng)
{
	uint64_t dice = rng_below(rng, 100);
	unsigned bits = dice < 60   ? 1 + (unsigned)rng_below(rng, 12)
			: dice < 88 ? 12 + (unsigned)rng_below(rng, 6)
				    : 18 + (unsigned)rng_below(rng, 6);

	return (size_t)(1 + rng_below(rng, 1ull << bits));
}

static uint64_t block_draw_key(struct rng *rng)
{
	return rng_next(rng) | 1;
}

static void block_live(struct slot *slot, size_t more, size_t less)
{
	uint64_t now, max;

	slot->live_bytes += more;
	slot->live_bytes -= less;
	now = count_up(live_bytes, more - less) + more - less;
	max = atomic_load_explicit(&counts.live_bytes_max, memory_order_relaxed);
	while (now > max && !atomic_compare_exchange_weak(&counts.live_bytes_max, &max, now))
		;
}

struct block *block_pick(struct slot *slot, size_t at_least)
{
	unsigned start;

	if (!slot->blocks_count)
		return NULL;
	start = (unsigned)rng_below(&slot->rng, slot->blocks_count);
	for (unsigned i = 0; i < slot->blocks_count && i < 64; i++) {
		struct block *block = &slot->blocks[(start + i) % slot->blocks_count];

		if (block->size >= at_least)
			return block;
	}
	return NULL;
}

static void *block_aligned(struct rng *rng, size_t size, uint64_t way)
{
	size_t align = (size_t)8 << rng_below(rng, 11); /* 8 .. 8192; 1 in 11 beyond a page */
	void *memory = NULL;

	switch (way) {
	case 0:
		errno = posix_memalign(&memory, align, size);
		break;
	case 1:
		memory = aligned_alloc(align, (size + align - 1) / align * align);
		break;
	case 2:
		memory = memalign(align, size);
		break;
	case 3:
		align = OS_PAGE;
		memory = valloc(size);
		break;
	default:
		align = OS_PAGE;
		memory = pvalloc(size);
		break;
	}
	if (memory && (uintptr_t)memory % align)
		torture_fail(
			"aligned form %u: %p is not aligned to %zu", (unsigned)way, memory, align);
	return memory;
}

/* key 0 promises zeros, which are checked before the first write. */
static void *block_obtain(struct rng *rng, size_t size, struct block *block)
{
	uint64_t way = rng_below(rng, 12);

	block->kind = BLOCK_HEAP;
	block->key = block_draw_key(rng);
	block->page_aligned = way >= 10;
	if (way < 4)
		return malloc(size);
	if (way < 6) {
		size_t each = 1 + (size_t)rng_below(rng, 64);

		block->key = 0;
		return calloc((size + each - 1) / each, each);
	}
	if (way == 6 && size >= (1u << 20) && options.mmap) {
		void *memory = mmap(
			NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		block->kind = BLOCK_MMAP;
		block->page_aligned = true;
		block->key = 0;
		return memory == MAP_FAILED ? NULL : memory;
	}
	if (way == 6)
		return reallocarray(NULL, size, 1);
	return block_aligned(rng, size, way - 7);
}

/* All of what the allocator says may be used is used, and found again; the descriptor stays as it
 * was. */
static void block_use_slack(struct block *block)
{
	size_t usable = block->kind == BLOCK_HEAP ? malloc_usable_size(block->memory) : block->size;
	struct block slack = *block;

	if (usable < block->size)
		torture_fail("malloc_usable_size(%p) = %zu for a block of %zu",
			(void *)block->memory, usable, block->size);
	if (usable == block->size)
		return;
	slack.size = usable;
	slack.overlays[0] = (struct overlay){block->size, usable, block->id | 1};
	slack.overlays_count = 1;
	pattern_fill(block->memory + block->size, block->size, usable, block->id | 1);
	pattern_check(&slack, block->memory + block->size, block->size, usable, NULL);
}

void block_allocate(struct slot *slot)
{
	size_t size = block_draw_size(&slot->rng);
	struct block block = {.size = size};

	if (slot->blocks_count == BLOCKS_MAX)
		return;
	block.id = (uint64_t)slot->index << 48 | ++slot->next_id;
	block.memory = block_obtain(&slot->rng, size, &block);
	if (!block.memory)
		torture_fail("allocation of %zu bytes failed: %s", size, strerror(errno));
	if (block.key == 0)
		pattern_check(&block, block.memory, 0, size, NULL);
	/* Some zeroed blocks stay untouched: their zeros are checked again much later. */
	if (block.key || rng_below(&slot->rng, 4)) {
		block.key = block_draw_key(&slot->rng);
		pattern_fill(block.memory, 0, size, block.key);
	}
	if (rng_below(&slot->rng, 8) == 0)
		block_use_slack(&block);
	slot->blocks[slot->blocks_count++] = block;
	block_live(slot, size, 0);
	count_up(blocks, 1);
}

/* Checks all, adds to the digest, frees. The descriptor is a copy: the block has no owner any more.
 */
static void block_end(struct block *block)
{
	uint64_t sum = block->size * 0x9e3779b97f4a7c15ull ^ block->id;

	pattern_check(block, block->memory, 0, block->size, &sum);
	atomic_fetch_add_explicit(&digest, sum, memory_order_relaxed);
	if (block->locked)
		munlock(block->memory, block->size);
	if (block->kind == BLOCK_HEAP)
		free(block->memory);
	else if (munmap(block->memory, block->size))
		torture_fail(
			"munmap(%p, %zu): %s", (void *)block->memory, block->size, strerror(errno));
}

static struct block block_unlist(struct slot *slot, struct block *block)
{
	struct block taken = *block;

	*block = slot->blocks[--slot->blocks_count];
	block_live(slot, 0, taken.size);
	return taken;
}

void block_release(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);

	if (block) {
		struct block taken = block_unlist(slot, block);

		block_end(&taken);
	}
}

void block_release_all(struct slot *slot)
{
	while (slot->blocks_count) {
		struct block taken = block_unlist(slot, &slot->blocks[slot->blocks_count - 1]);

		block_end(&taken);
	}
}

static void *block_move(struct rng *rng, struct block *block, size_t size)
{
	void *memory;

	if (block->kind == BLOCK_MMAP) {
		memory = mremap(block->memory, block->size, size, MREMAP_MAYMOVE);
		return memory == MAP_FAILED ? NULL : memory;
	}
	if (rng_below(rng, 3))
		return realloc(block->memory, size);
	return reallocarray(block->memory, size, 1);
}

static void block_clip_overlays(struct block *block)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < block->overlays_count; i++) {
		struct overlay overlay = block->overlays[i];

		if (overlay.lo >= block->size)
			continue;
		if (overlay.hi > block->size)
			overlay.hi = block->size;
		block->overlays[kept++] = overlay;
	}
	block->overlays_count = kept;
}

void block_resize(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);
	size_t old_size, size, common;
	void *memory;

	if (!block)
		return;
	old_size = block->size;
	/* Half the time near the old size, so that growing in place and shrinking in place are met
	 * too. */
	size = rng_below(&slot->rng, 2) ? block_draw_size(&slot->rng)
					: 1 + (size_t)rng_below(&slot->rng, 2 * old_size);
	if (block->kind == BLOCK_MMAP && size < OS_PAGE)
		size = OS_PAGE;
	if (size > BLOCK_BYTES_MAX)
		size = BLOCK_BYTES_MAX;
	if (block->locked) {
		munlock(block->memory, old_size);
		block->locked = false;
	}
	block->page_aligned = block->kind == BLOCK_MMAP;
	memory = block_move(&slot->rng, block, size);
	if (!memory)
		torture_fail("realloc of %p from %zu to %zu bytes failed: %s",
			(void *)block->memory, old_size, size, strerror(errno));
	block->memory = memory;
	block->size = size;
	block_clip_overlays(block);
	common = size < old_size ? size : old_size;
	pattern_check(block, block->memory, 0, common, NULL);
	if (size > old_size) {
		struct overlay tail = {old_size, size, block_draw_key(&slot->rng)};

		pattern_fill(block->memory + old_size, old_size, size, tail.key);
		block_overlay(slot, block, tail);
	}
	block_live(slot, size, old_size);
	count_up(reallocs, 1);
}

void block_overlay(struct slot *slot, struct block *block, struct overlay overlay)
{
	if (block->overlays_count == OVERLAYS_MAX) {
		block->overlays_count = 0;
		block->key = block_draw_key(&slot->rng);
		pattern_fill(block->memory, 0, block->size, block->key);
		return;
	}
	block->overlays[block->overlays_count++] = overlay;
}

void block_window(struct rng *rng, const struct block *block, size_t most, struct overlay *window)
{
	size_t bytes = 1 + (size_t)rng_below(rng, block->size < most ? block->size : most);

	window->lo = (size_t)rng_below(rng, block->size - bytes + 1);
	window->hi = window->lo + bytes;
}

void block_restore(struct block *block, size_t lo, size_t hi)
{
	while (lo < hi) {
		uint64_t key;
		size_t end = pattern_stretch(block, lo, hi, &key);

		pattern_fill(block->memory + lo, lo, end, key);
		lo = end;
	}
}

/*
 * Whether a block holds whole OS pages depends on its address, which is not ours to know (invariant
 * 2): so the draws are made from the size alone, and then shifted to the block's first boundary.
 * What such a window holds afterwards may differ from before only in blocks that are page_aligned.
 */
bool block_page_window(
	struct rng *rng, const struct block *block, size_t most, struct overlay *window)
{
	size_t shift = (OS_PAGE - (uintptr_t)block->memory % OS_PAGE) % OS_PAGE;
	size_t pages = block->size / OS_PAGE, count;

	if (pages < 2)
		return false;
	pages -= 1;
	count = 1 + (size_t)rng_below(rng, pages < most / OS_PAGE ? pages : most / OS_PAGE);
	window->lo = shift + (size_t)rng_below(rng, pages - count + 1) * OS_PAGE;
	window->hi = window->lo + count * OS_PAGE;
	return true;
}

void block_rewrite(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);
	struct overlay window;

	if (!block)
		return;
	block_window(&slot->rng, block, 3 * OS_PAGE, &window);
	window.key = block_draw_key(&slot->rng);
	pattern_check(block, block->memory + window.lo, window.lo, window.hi, NULL);
	pattern_fill(block->memory + window.lo, window.lo, window.hi, window.key);
	block_overlay(slot, block, window);
}

void block_peek(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);
	struct overlay window;

	if (!block)
		return;
	block_window(&slot->rng, block, 16 * OS_PAGE, &window);
	pattern_check(block, block->memory + window.lo, window.lo, window.hi, NULL);
}

void block_hand_over(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);
	struct block taken;
	bool room;

	if (!block)
		return;
	taken = block_unlist(slot, block);
	pthread_mutex_lock(&exchange.mutex);
	room = exchange.count < EXCHANGE_MAX;
	if (room)
		exchange.blocks[exchange.count++] = taken;
	pthread_mutex_unlock(&exchange.mutex);
	if (!room)
		block_end(&taken);
	count_up(handed, room);
}

static bool block_exchange_take(struct rng *rng, struct block *taken)
{
	bool found;

	pthread_mutex_lock(&exchange.mutex);
	found = exchange.count > 0;
	if (found) {
		struct block *from = &exchange.blocks[rng_below(rng, exchange.count)];

		*taken = *from;
		*from = exchange.blocks[--exchange.count];
	}
	pthread_mutex_unlock(&exchange.mutex);
	return found;
}

void block_take(struct slot *slot)
{
	struct block taken;

	if (!block_exchange_take(&slot->side_rng, &taken))
		return;
	block_end(&taken);
	count_up(taken, 1);
}

void block_exchange_drain(void)
{
	struct rng rng = {1};
	struct block taken;

	while (block_exchange_take(&rng, &taken))
		block_end(&taken);
}

void block_flip(struct slot *slot)
{
	struct block *block = block_pick(slot, 1);

	if (!block)
		torture_fail("--flip: no block to wrong");
	block->memory[rng_below(&slot->rng, block->size)] ^= 0x10;
}

/* libc's own callers of malloc: their memory comes from and goes to the same heap. */
void block_libc(struct slot *slot)
{
	uint64_t word = rng_next(&slot->rng);
	char *text = NULL, *twin, *line = NULL;
	size_t length = 0, line_size = 0;
	FILE *stream;

	if (asprintf(&text, "%0*llx", 16 + (int)(word % 4000), (unsigned long long)word) < 0)
		torture_fail("asprintf: %s", strerror(errno));
	twin = strdup(text);
	stream = open_memstream(&line, &line_size);
	if (!twin || !stream)
		torture_fail("strdup or open_memstream: %s", strerror(errno));
	for (unsigned i = 0; i < 8; i++)
		length += (size_t)fprintf(stream, "%s\n", twin);
	fclose(stream);
	if (line_size != length || strncmp(line, text, strlen(text)) != 0 ||
		strtoull(twin, NULL, 16) != word)
		torture_fail(
			"strdup, asprintf or open_memstream gave wrong text at %p", (void *)line);
	free(line);
	free(text);
	free(twin);
}
