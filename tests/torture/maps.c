/*
 * tests/torture/maps.c: farmem-maps: mmap, munmap, mremap, mprotect, madvise and MAP_FIXED in every
 * order, against a twin that is obviously right.
 *
 * An ordinary program: libc and nothing of farmem. Run natively it gives the reference digest;
 * under farmem the same digest must come out, with most of the pages far.
 *
 * The twin: for each page of a region, in static memory: what it must hold (a key, or zeros),
 * whether it is mapped, and with which protection. What is drawn depends on the seed alone, never
 * on addresses. Each thread has regions of its own, so that only the allocator of addresses is
 * shared.
 *
 *   farmem-maps --ops N [--threads N] [--seed N] [--dir DIR]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OS_PAGE 4096u
#define WORDS_PER_PAGE (OS_PAGE / 8u)
#define REGIONS_MAX 20
#define PAGES_MAX 6144u /* of a region: 24 MiB */
#define THREADS_MAX 4
#define FILE_PAGES 256u
#define FILE_KEY 0x66696c65ull
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

struct page {
	uint64_t key; /* 0: zeros */
	uint8_t prot;
	bool mapped;
};

struct region {
	uint8_t *base;
	uint32_t pages;
	bool split; /* the kernel may have cut it up: it moves no such mapping */
	struct page page[PAGES_MAX];
};

struct worker {
	unsigned index;
	uint64_t state, digest, checks;
	int pipe[2];
	struct region region[REGIONS_MAX];
};

static struct worker workers[THREADS_MAX];
static uint64_t option_ops = 2000, option_threads = 2, option_seed = 1;
static const char *option_dir = "/tmp";
static int file;

static __attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fprintf(stderr, "maps: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	abort();
}

static uint64_t draw(struct worker *w, uint64_t below)
{
	uint64_t x = w->state += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31) % below;
}

/* ---- contents ---- */

static uint64_t word_of(uint64_t key, unsigned i)
{
	return key == 0 ? 0 : key * 0x9e3779b97f4a7c15ull + i;
}

static void check_page(struct worker *w, const struct region *g, uint32_t i)
{
	const struct page *p = &g->page[i];
	const uint64_t *words = (const uint64_t *)(const void *)(g->base + (size_t)i * OS_PAGE);
	for (unsigned k = 0; k < WORDS_PER_PAGE; k += p->key == 0 ? 1 : 37)
		if (words[k] != word_of(p->key, k))
			fail("page %u of a region at %p, word %u: wanted %llx, found %llx", i,
				(void *)g->base, k, (unsigned long long)word_of(p->key, k),
				(unsigned long long)words[k]);
	w->digest = w->digest * 31 + p->key + i;
	w->checks++;
}

/* Can the kernel read it on our behalf? Without a signal. */
static bool readable(struct worker *w, const uint8_t *at)
{
	char byte;
	if (write(w->pipe[1], at, 1) == 1)
		return read(w->pipe[0], &byte, 1) == 1;
	if (errno != EFAULT)
		fail("write from %p: %s", (const void *)at, strerror(errno));
	return false;
}

static void check(struct worker *w, const struct region *g, uint32_t i)
{
	const struct page *p = &g->page[i];
	bool may = p->mapped && (p->prot & PROT_READ);
	/* What is not mapped may be somebody else's by now: only in our own reservations is it
	 * known to be out of reach. */
	if (may)
		check_page(w, g, i);
	else if (p->mapped && readable(w, g->base + (size_t)i * OS_PAGE))
		fail("page %u of a region at %p is readable, and should not be", i,
			(void *)g->base);
}

static void fill(struct region *g, uint32_t i, uint64_t key)
{
	uint64_t *words = (uint64_t *)(void *)(g->base + (size_t)i * OS_PAGE);
	for (unsigned k = 0; k < WORDS_PER_PAGE; k++)
		words[k] = word_of(key, k);
	g->page[i].key = key;
}

/* ---- regions ---- */

static void set(struct region *g, uint32_t from, uint32_t to, struct page page)
{
	for (uint32_t i = from; i < to; i++)
		g->page[i] = page;
}

static void map_region(struct worker *w, struct region *g)
{
	static const uint32_t sizes[] = {64, 127, 256, 512, 700, 1024, 2048, 5000};
	int prot = draw(w, 3) ? RW : PROT_NONE;
	g->pages = sizes[draw(w, 8)] + (uint32_t)draw(w, 3);
	int flags = ANON | (prot == RW && draw(w, 16) == 0 ? MAP_POPULATE : 0);
	g->base = mmap(draw(w, 4) ? NULL : (void *)0x7e1234560000, (size_t)g->pages * OS_PAGE, prot,
		flags, -1, 0);
	g->split = false;
	if (g->base == MAP_FAILED)
		fail("mmap of %u pages: %s", g->pages, strerror(errno));
	set(g, 0, g->pages, (struct page){.prot = (uint8_t)prot, .mapped = true});
}

static void unmap(struct region *g, uint32_t from, uint32_t to)
{
	if (munmap(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE))
		fail("munmap: %s", strerror(errno));
	set(g, from, to, (struct page){.mapped = false});
}

/* Mapped pages only: what was unmapped may belong to another mapping by now. */
static void end_region(struct worker *w, struct region *g)
{
	for (uint32_t i = 0; i < g->pages; i++)
		check(w, g, i);
	for (uint32_t i = 0, to; i < g->pages; i = to) {
		for (to = i + 1; to < g->pages && g->page[to].mapped == g->page[i].mapped; to++)
			;
		if (g->page[i].mapped)
			unmap(g, i, to);
	}
	g->base = NULL;
}

/* A window within one mapped stretch. False: none where we looked. */
static bool window(struct worker *w, const struct region *g, uint32_t *from, uint32_t *to)
{
	uint32_t at = (uint32_t)draw(w, g->pages), most = 1 + (uint32_t)draw(w, g->pages);
	if (!g->page[at].mapped)
		return false;
	for (*from = *to = at; *to < g->pages && *to - *from < most && g->page[*to].mapped; ++*to)
		;
	return true;
}

/* ---- operations ---- */

static void do_write(struct worker *w, struct region *g)
{
	uint32_t from, to;
	if (!window(w, g, &from, &to))
		return;
	uint64_t key = 1 + draw(w, 1ull << 40);
	for (uint32_t i = from; i < to; i++)
		if (g->page[i].prot == RW)
			fill(g, i, key + i);
}

static void do_check(struct worker *w, struct region *g)
{
	uint32_t from, to;
	if (!window(w, g, &from, &to))
		return;
	for (uint32_t i = from; i < to; i++)
		check(w, g, i);
}

static void do_protect(struct worker *w, struct region *g)
{
	static const int prots[] = {RW, RW, RW, PROT_READ, PROT_NONE, RW};
	uint32_t from, to;
	int prot = prots[draw(w, 6)];
	if (!window(w, g, &from, &to))
		return;
	if (mprotect(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE, prot))
		fail("mprotect: %s", strerror(errno));
	for (uint32_t i = from; i < to; i++)
		g->page[i].prot = (uint8_t)prot;
}

static void do_fixed(struct worker *w, struct region *g)
{
	uint32_t from, to;
	int prot = draw(w, 2) ? RW : PROT_NONE;
	if (!window(w, g, &from, &to))
		return;
	uint8_t *at = g->base + (size_t)from * OS_PAGE;
	if (mmap(at, (size_t)(to - from) * OS_PAGE, prot, ANON | MAP_FIXED, -1, 0) != at)
		fail("MAP_FIXED: %s", strerror(errno));
	set(g, from, to, (struct page){.prot = (uint8_t)prot, .mapped = true});
}

/* A private mapping of a file into the middle of our memory. */
static void do_file(struct worker *w, struct region *g)
{
	uint32_t from, to;
	if (!window(w, g, &from, &to))
		return;
	to = to - from > FILE_PAGES ? from + FILE_PAGES : to;
	uint8_t *at = g->base + (size_t)from * OS_PAGE;
	if (mmap(at, (size_t)(to - from) * OS_PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, 0) != at)
		fail("MAP_FIXED of a file: %s", strerror(errno));
	set(g, from, to, (struct page){.key = FILE_KEY, .prot = RW, .mapped = true});
	/* A failure leaves everything as it was. */
	if (mmap(at, OS_PAGE, RW, MAP_PRIVATE | MAP_FIXED, 987654, 0) != MAP_FAILED)
		fail("a mapping of no file");
	for (uint32_t i = from; i < to; i++)
		check(w, g, i);
	/* Anonymous pages again, so that advice means the same everywhere. */
	if (draw(w, 4))
		fill(g, from, 7 + draw(w, 1000));
	if (mmap(at, (size_t)(to - from) * OS_PAGE, RW, ANON | MAP_FIXED, -1, 0) != at)
		fail("MAP_FIXED: %s", strerror(errno));
	set(g, from, to, (struct page){.prot = RW, .mapped = true});
}

static void do_advise(struct worker *w, struct region *g)
{
	static const int advices[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
		MADV_WILLNEED, MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_COLD};
	uint32_t from, to;
	int advice = advices[draw(w, 8)];
	if (!window(w, g, &from, &to))
		return;
	/* Locked pages cannot be dropped. */
	(void)munlock(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE);
	if (madvise(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE, advice) &&
		advice == MADV_DONTNEED)
		fail("madvise: %s", strerror(errno));
	for (uint32_t i = from; i < to && advice == MADV_DONTNEED; i++)
		g->page[i].key = 0;
}

static void do_lock(struct worker *w, struct region *g)
{
	uint32_t from, to;
	if (!window(w, g, &from, &to))
		return;
	to = to - from > 64 ? from + 64 : to;
	if (mlock(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE) == 0 &&
		draw(w, 3))
		(void)munlock(g->base + (size_t)from * OS_PAGE, (size_t)(to - from) * OS_PAGE);
}

static void do_unmap(struct worker *w, struct region *g)
{
	uint32_t from, to;
	if (window(w, g, &from, &to))
		unmap(g, from, to);
}

static void do_remap(struct worker *w, struct region *g)
{
	uint32_t pages = 1 + (uint32_t)draw(w, 2 * g->pages);
	if (g->split)
		return;
	pages = pages > PAGES_MAX ? PAGES_MAX : pages;
	void *at = mremap(
		g->base, (size_t)g->pages * OS_PAGE, (size_t)pages * OS_PAGE, MREMAP_MAYMOVE);
	if (at == MAP_FAILED)
		fail("mremap from %u to %u pages: %s", g->pages, pages, strerror(errno));
	g->base = at;
	if (pages > g->pages)
		set(g, g->pages, pages, (struct page){.prot = g->page[0].prot, .mapped = true});
	g->pages = pages;
}

/* Over another region of the same worker, which is thereby gone. */
static void do_remap_fixed(struct region *g, struct region *victim)
{
	if (g == victim || victim->base == NULL || victim->pages < g->pages || g->split)
		return;
	for (uint32_t i = 0; i < victim->pages; i++)
		if (!victim->page[i].mapped)
			return;
	void *at = mremap(g->base, (size_t)g->pages * OS_PAGE, (size_t)g->pages * OS_PAGE,
		MREMAP_MAYMOVE | MREMAP_FIXED, victim->base);
	if (at != victim->base)
		fail("mremap to a fixed place: %s", strerror(errno));
	for (uint32_t i = 0; i < g->pages; i++)
		victim->page[i] = g->page[i];
	victim->split = true;
	g->base = NULL;
}

static void step(struct worker *w)
{
	struct region *g = &w->region[draw(w, REGIONS_MAX)];
	uint64_t what = draw(w, 40);
	g->split |= what >= 20 && what < 35;
	g->split |= what == 38;
	if (g->base == NULL)
		map_region(w, g);
	else if (what < 12)
		do_write(w, g);
	else if (what < 20)
		do_check(w, g);
	else if (what < 26)
		do_protect(w, g);
	else if (what < 29)
		do_fixed(w, g);
	else if (what < 32)
		do_advise(w, g);
	else if (what == 32)
		do_lock(w, g);
	else if (what < 35)
		do_unmap(w, g);
	else if (what < 37)
		do_remap(w, g);
	else if (what == 37)
		do_remap_fixed(g, &w->region[draw(w, REGIONS_MAX)]);
	else if (what == 38)
		do_file(w, g);
	else
		end_region(w, g);
}

static void *worker_main(void *argument)
{
	struct worker *w = argument;
	w->state = option_seed * 1000 + w->index;
	if (pipe(w->pipe))
		fail("pipe: %s", strerror(errno));
	for (uint64_t i = 0; i < option_ops; i++)
		step(w);
	for (unsigned i = 0; i < REGIONS_MAX; i++)
		if (w->region[i].base != NULL)
			end_region(w, &w->region[i]);
	return NULL;
}

static void open_file(void)
{
	static uint64_t words[WORDS_PER_PAGE];
	char path[4096];
	snprintf(path, sizeof(path), "%s/maps-XXXXXX", option_dir);
	file = mkstemp(path);
	if (file < 0 || unlink(path))
		fail("%s: %s", path, strerror(errno));
	for (unsigned k = 0; k < WORDS_PER_PAGE; k++)
		words[k] = word_of(FILE_KEY, k);
	for (unsigned i = 0; i < FILE_PAGES; i++)
		if (write(file, words, sizeof(words)) != (ssize_t)sizeof(words))
			fail("write: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS_MAX];
	uint64_t digest = 0, checks = 0;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--ops"))
			option_ops = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--threads"))
			option_threads = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--seed"))
			option_seed = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--dir"))
			option_dir = argv[i + 1];
		else
			fail("%s: no such option", argv[i]);
	}
	if (option_threads < 1 || option_threads > THREADS_MAX)
		fail("--threads: 1 to %d", THREADS_MAX);
	open_file();
	for (unsigned i = 0; i < option_threads; i++) {
		workers[i].index = i;
		if (pthread_create(&threads[i], NULL, worker_main, &workers[i]))
			fail("pthread_create");
	}
	for (unsigned i = 0; i < option_threads; i++) {
		pthread_join(threads[i], NULL);
		digest ^= workers[i].digest * (i + 1);
		checks += workers[i].checks;
	}
	printf("maps: ok digest %016llx pages checked %llu\n", (unsigned long long)digest,
		(unsigned long long)checks);
	return 0;
}
