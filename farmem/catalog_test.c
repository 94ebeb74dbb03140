/*
 * farmem/catalog_test.c: the catalog can be shared, and nothing about it is believed unchecked.
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "farmem/catalog.h"

static const struct catalog_options usual = {.range_base = 0x100000000000ull,
	.range_pages = 1 << 20,
	.records_max = 1 << 18,
	.code_k = 4,
	.code_m = 2,
	.region_bytes = 64 << 20,
	.command = "a-program-with-a-name"};

TEST(what_is_created_can_be_attached_and_both_see_the_same)
{
	struct catalog mine, theirs;
	CHECK_EQ(catalog_create(&mine, &usual), 0);
	CHECK_EQ(catalog_attach(&theirs, dup(mine.fd)), 0);
	CHECK(theirs.header != mine.header);
	CHECK_EQ(theirs.header->range_pages, 1 << 20);
	CHECK_EQ(theirs.header->pid, getpid());
	CHECK_EQ(theirs.header->epoch, 1);
	CHECK_STR_EQ(theirs.header->command, usual.command);
	atomic_store(&mine.words[77], 123);
	CHECK_EQ(atomic_load(&theirs.words[77]), 123);
	theirs.groups[CATALOG_GROUPS_MAX - 1].k = 9;
	CHECK_EQ(mine.groups[CATALOG_GROUPS_MAX - 1].k, 9);
	mine.records[64 * ((1u << 18) - 1) + 63] = 7;
	CHECK_EQ(theirs.records[64 * ((1u << 18) - 1) + 63], 7);
	atomic_store(&theirs.stats->faults, 5);
	CHECK_EQ(atomic_load(&mine.stats->faults), 5);
	catalog_close(&theirs);
	catalog_close(&mine);
	CHECK_EQ(mine.fd, -1);
	catalog_close(&mine);
}

TEST(only_touched_tables_cost_memory)
{
	struct catalog c;
	struct catalog_options huge = usual;
	huge.range_pages = 1ull << 26; /* 256 GiB */
	huge.records_max = 1u << 26;
	CHECK_EQ(catalog_create(&c, &huge), 0);
	CHECK_LT(4ull << 30, c.header->total_bytes);
	CHECK_EQ(catalog_attach(&(struct catalog){0}, dup(c.fd)), 0);
	catalog_close(&c);
}

TEST(tables_of_different_kinds_do_not_overlap)
{
	struct catalog c;
	CHECK_EQ(catalog_create(&c, &usual), 0);
	const uint8_t *base = (const uint8_t *)c.header;
	const struct {
		const void *at;
		uint64_t bytes;
	} tables[] = {{c.header, sizeof(*c.header)},
		{c.nodes, sizeof(*c.nodes) * CATALOG_NODES_MAX},
		{c.groups, sizeof(*c.groups) * CATALOG_GROUPS_MAX},
		{c.threads, sizeof(*c.threads) * CATALOG_THREADS_MAX}, {c.stats, sizeof(*c.stats)},
		{(const void *)c.words, 8ull << 20}, {c.records, 64ull << 18}};
	uint64_t end = 0;
	for (unsigned i = 0; i < FM_ARRAY_COUNT(tables); i++) {
		uint64_t at = (uint64_t)((const uint8_t *)tables[i].at - base);
		CHECK_LE(end, at);
		CHECK_EQ(at % 64, 0);
		end = at + tables[i].bytes;
	}
	CHECK_LE(end, c.header->total_bytes);
	catalog_close(&c);
}

/* Attaches a copy of a good catalog with one field of the header changed. */
#define CHECK_REFUSED(field_, value_)                                                              \
	do {                                                                                       \
		struct catalog good_, other_;                                                      \
		CHECK_EQ(catalog_create(&good_, &usual), 0);                                       \
		int fd_ = dup(good_.fd);                                                           \
		good_.header->field_ = (value_);                                                   \
		CHECK_EQ(catalog_attach(&other_, fd_), -EPROTO);                                   \
		CHECK_EQ(fcntl(fd_, F_GETFD), -1); /* taken over, closed */                        \
		good_.header->total_bytes = total_bytes;                                           \
		catalog_close(&good_);                                                             \
	} while (0)

TEST(a_tampered_header_is_refused_field_by_field)
{
	struct catalog c;
	CHECK_EQ(catalog_create(&c, &usual), 0);
	uint64_t total_bytes = c.header->total_bytes;
	catalog_close(&c);
	CHECK_REFUSED(magic, 0);
	CHECK_REFUSED(magic, CATALOG_MAGIC ^ 1);
	CHECK_REFUSED(version, CATALOG_VERSION + 1);
	CHECK_REFUSED(header_bytes, sizeof(struct catalog_header) - 8);
	CHECK_REFUSED(total_bytes, total_bytes - 4096);
	CHECK_REFUSED(total_bytes, total_bytes + 4096);
	CHECK_REFUSED(total_bytes, UINT64_MAX);
	CHECK_REFUSED(range_pages, (1 << 20) + 4096);
	CHECK_REFUSED(range_pages, UINT64_MAX);
	CHECK_REFUSED(range_pages, UINT64_MAX / 8 + 2);
	CHECK_REFUSED(range_pages, 0);
	CHECK_REFUSED(records_max, (1 << 18) + 64);
	CHECK_REFUSED(records_max, UINT32_MAX);
	CHECK_REFUSED(record_stride, 0);
	CHECK_REFUSED(record_stride, 128);
	CHECK_REFUSED(record_stride, 63);
	CHECK_REFUSED(code_k, 0);
	CHECK_REFUSED(code_k, EC_K_MAX + 1);
	CHECK_REFUSED(code_k, 16);
	CHECK_REFUSED(code_m, EC_M_MAX + 1);
	CHECK_REFUSED(code_m, UINT32_MAX);
}

static void check_attach_fails(int fd)
{
	struct catalog c;
	CHECK(fd >= 0);
	CHECK_EQ(catalog_attach(&c, fd), -EPROTO);
	CHECK_EQ(fcntl(fd, F_GETFD), -1);
}

TEST(a_memfd_that_could_still_shrink_or_grow_is_refused)
{
	static const int seals[] = {0, F_SEAL_GROW, F_SEAL_SHRINK};
	struct catalog good;
	CHECK_EQ(catalog_create(&good, &usual), 0);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(seals); i++) {
		int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		CHECK_EQ(ftruncate(fd, (off_t)good.header->total_bytes), 0);
		CHECK_EQ(pwrite(fd, good.header, sizeof(*good.header), 0),
			(ssize_t)sizeof(*good.header));
		if (seals[i])
			CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		check_attach_fails(fd);
	}
	catalog_close(&good);
}

TEST(files_that_are_no_catalog_are_refused)
{
	int short_fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK_EQ(ftruncate(short_fd, 100), 0);
	CHECK_EQ(fcntl(short_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), 0);
	check_attach_fails(short_fd);
	int empty = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK_EQ(fcntl(empty, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), 0);
	check_attach_fails(empty);
	check_attach_fails(open("/dev/null", O_RDWR | O_CLOEXEC));
	int ends[2];
	CHECK_EQ(pipe(ends), 0);
	check_attach_fails(ends[0]);
	close(ends[1]);
}

TEST(a_created_catalog_cannot_be_cut_short_by_the_other_side)
{
	struct catalog c;
	CHECK_EQ(catalog_create(&c, &usual), 0);
	CHECK_EQ(ftruncate(c.fd, 4096), -1);
	CHECK_EQ(ftruncate(c.fd, (off_t)c.header->total_bytes + 4096), -1);
	CHECK_EQ(fcntl(c.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	catalog_close(&c);
}
