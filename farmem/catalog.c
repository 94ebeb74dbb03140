/*
 * farmem/catalog.c: laying out, creating and checking the catalog (see catalog.h).
 *
 * Callers: the runtime creates (runtime.c), the agent attaches (farmem/agent). The memfd is sealed
 * against growing and shrinking, so neither side can make the other fault on it. attach trusts
 * nothing: every size is recomputed from the header and compared with the file.
 */
#include "farmem/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"

#define CATALOG_RANGE_PAGES_MAX (1ull << 32)
#define CATALOG_ALIGN 4096ull

FM_BUILD_ASSERT(sizeof(struct catalog_thread) == FM_CACHE_LINE, "an epoch has its own cache line");

struct catalog_layout {
	uint64_t nodes, groups, repairs, done, threads, stats, heal, merges, words, records, total;
};

uint32_t catalog_record_stride(unsigned k, unsigned m)
{
	unsigned n = k + m;
	unsigned bits = 20 * n;
	unsigned bytes = 8 + 4 * k + 4 * n + (bits + 7) / 8;
	return (uint32_t)FM_ALIGN_UP(bytes, (unsigned)FM_CACHE_LINE);
}

static uint64_t catalog_place(uint64_t *cursor, uint64_t bytes)
{
	uint64_t at = *cursor;
	*cursor = FM_ALIGN_UP(at + bytes, CATALOG_ALIGN);
	return at;
}

static struct catalog_layout catalog_plan(uint64_t range_pages, uint64_t records, uint64_t stride)
{
	struct catalog_layout l;
	uint64_t cursor = 0;
	(void)catalog_place(&cursor, sizeof(struct catalog_header));
	l.nodes = catalog_place(&cursor, sizeof(struct catalog_node) * CATALOG_NODES_MAX);
	l.groups = catalog_place(&cursor, sizeof(struct catalog_group) * CATALOG_GROUPS_MAX);
	l.repairs = catalog_place(&cursor, sizeof(struct catalog_repair) * CATALOG_REPAIRS_MAX);
	l.done = catalog_place(&cursor, (uint64_t)CATALOG_REPAIRS_MAX * CATALOG_SLOTS_MAX / 8);
	l.threads = catalog_place(&cursor, sizeof(struct catalog_thread) * CATALOG_THREADS_MAX);
	l.stats = catalog_place(&cursor, sizeof(struct catalog_stats));
	l.heal = catalog_place(&cursor, sizeof(uint32_t) * CATALOG_HEAL_MAX);
	l.merges = catalog_place(&cursor, sizeof(struct catalog_merge) * CATALOG_MERGES_MAX);
	l.words = catalog_place(&cursor, sizeof(uint64_t) * range_pages);
	l.records = catalog_place(&cursor, stride * records);
	l.total = cursor;
	return l;
}

static void catalog_point(struct catalog *c, uint8_t *base, const struct catalog_layout *l, int fd)
{
	c->header = (struct catalog_header *)(void *)base;
	c->nodes = (struct catalog_node *)(void *)(base + l->nodes);
	c->groups = (struct catalog_group *)(void *)(base + l->groups);
	c->repairs = (struct catalog_repair *)(void *)(base + l->repairs);
	c->done = (_Atomic uint64_t *)(void *)(base + l->done);
	c->heal = (_Atomic uint32_t *)(void *)(base + l->heal);
	c->merges = (struct catalog_merge *)(void *)(base + l->merges);
	c->threads = (struct catalog_thread *)(void *)(base + l->threads);
	c->stats = (struct catalog_stats *)(void *)(base + l->stats);
	c->words = (_Atomic uint64_t *)(void *)(base + l->words);
	c->records = base + l->records;
	c->bytes = l->total;
	c->fd = fd;
}

static void catalog_fill_header(
	struct catalog_header *h, const struct catalog_options *o, uint64_t total)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	h->version = CATALOG_VERSION;
	h->header_bytes = sizeof(*h);
	h->total_bytes = total;
	h->range_base = o->range_base;
	h->range_pages = o->range_pages;
	h->records_max = o->records_max;
	h->record_stride = catalog_record_stride(o->code_k, o->code_m);
	h->code_k = o->code_k;
	h->code_m = o->code_m;
	h->scheme = o->scheme;
	h->region_bytes = o->region_bytes;
	h->pid = (int32_t)getpid();
	h->started_ns = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
	strncpy(h->command, o->command ? o->command : "", sizeof(h->command) - 1);
	h->epoch = 1;
	h->magic = CATALOG_MAGIC;
}

int catalog_create(struct catalog *catalog, const struct catalog_options *options)
{
	FM_ASSERT(options->code_k >= 1 && options->code_k <= EC_K_MAX);
	FM_ASSERT_LE(options->code_m, EC_M_MAX);
	FM_ASSERT_LT(options->range_pages, CATALOG_RANGE_PAGES_MAX);
	uint32_t stride = catalog_record_stride(options->code_k, options->code_m);
	struct catalog_layout l = catalog_plan(options->range_pages, options->records_max, stride);
	int rc;
	int fd = memfd_create("farmem-catalog", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)l.total) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		goto close_fd;
	void *base = mmap(NULL, l.total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED)
		goto close_fd;
	/* Gigabytes of holes, which a core dump would fill. */
	(void)madvise(base, l.total, MADV_DONTDUMP);
	catalog_point(catalog, base, &l, fd);
	catalog_fill_header(catalog->header, options, l.total);
	return 0;
close_fd:
	rc = -errno;
	close(fd);
	return rc;
}

static bool catalog_header_good(const struct catalog_header *h, uint64_t file_bytes)
{
	if (h->magic != CATALOG_MAGIC || h->version != CATALOG_VERSION ||
		h->header_bytes != sizeof(*h) || h->total_bytes != file_bytes)
		return false;
	if (h->code_k < 1 || h->code_k > EC_K_MAX || h->code_m > EC_M_MAX ||
		h->scheme >= SCHEME_COUNT)
		return false;
	if (h->range_pages >= CATALOG_RANGE_PAGES_MAX ||
		h->record_stride != catalog_record_stride(h->code_k, h->code_m))
		return false;
	return catalog_plan(h->range_pages, h->records_max, h->record_stride).total == file_bytes;
}

int catalog_attach(struct catalog *catalog, int fd)
{
	struct stat st;
	int rc = -EPROTO;
	const int seals = F_SEAL_GROW | F_SEAL_SHRINK;
	int have = fcntl(fd, F_GET_SEALS);
	if (fstat(fd, &st) < 0 || have < 0 || (have & seals) != seals)
		goto close_fd;
	uint64_t bytes = (uint64_t)st.st_size;
	if (bytes < sizeof(struct catalog_header))
		goto close_fd;
	uint8_t *base =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED) {
		rc = -errno;
		goto close_fd;
	}
	/* Taken once: the other side cannot change what was checked. */
	struct catalog_header seen = *(struct catalog_header *)(void *)base;
	if (!catalog_header_good(&seen, bytes))
		goto unmap;
	struct catalog_layout l =
		catalog_plan(seen.range_pages, seen.records_max, seen.record_stride);
	catalog_point(catalog, base, &l, fd);
	return 0;
unmap:
	mem_unmap(base, bytes);
close_fd:
	close(fd);
	return rc;
}

void catalog_close(struct catalog *catalog)
{
	if (catalog->header == NULL)
		return;
	close(catalog->fd);
	mem_unmap(catalog->header, catalog->bytes);
	memset(catalog, 0, sizeof(*catalog));
	catalog->fd = -1;
}
