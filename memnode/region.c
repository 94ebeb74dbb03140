/*
 * memnode/region.c: the memory of regions; see memnode/region.h. Called by lease.c only.
 *
 * Invariants
 *   1. All of a made region's memory is allocated (fallocate): it is charged to this process, and
 *      no write to it can fail for want of memory.
 *   2. The file is sealed against growing and further sealing: a client that holds the descriptor
 *      can neither enlarge it nor keep us from truncating it.
 */
#include "memnode/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/fault_point.h"
#include "base/log.h"

#define MACHINE_RESERVE_BYTES (64ull << 20) /* left to the machine when we allocate */
#define REGION_HUGE_BYTES (2ull << 20)
/* Zeroing and copying one takes a millisecond; more than this is the kernel compacting memory. */
#define REGION_COLLAPSE_CPU_NS 20000000ll
/* A Reserve takes no longer for the sake of huge pages. */
#define REGION_COLLAPSE_NS (2 * NS_PER_S)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/*
 * Two clients' operations on the same bytes race by the clients' own choice, as on one-sided
 * hardware. TSan is told so for these bytes, and watches everything else.
 */
#if defined(__SANITIZE_THREAD__)
void AnnotateBenignRaceSized(
	const char *file, int line, const volatile void *memory, size_t bytes, const char *what);
#define REGION_RACES_ARE_THE_CLIENTS(memory, bytes)                                                \
	AnnotateBenignRaceSized(__FILE__, __LINE__, memory, bytes, "region")
#else
#define REGION_RACES_ARE_THE_CLIENTS(memory, bytes) ((void)0)
#endif

/* What the machine can give without swapping or killing somebody; UINT64_MAX when it does not tell.
 */
static uint64_t machine_available_bytes(void)
{
	char text[2048];
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return UINT64_MAX;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	const char *at = strstr(text, "MemAvailable:");
	return at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) * 1024 : UINT64_MAX;
}

static int allocate_range(int fd, uint64_t offset, uint64_t bytes)
{
	int r;
	do
		r = fallocate(fd, 0, (off_t)offset, (off_t)bytes);
	while (r && errno == EINTR);
	if (r)
		return errno == ENOSPC ? -ENOMEM : -errno;
	return 0;
}

void region_close(struct region *region)
{
	/* Descriptors handed to clients see this: reads come back short, writes are refused
	 * (sealed). */
	if (region->memfd >= 0 && ftruncate(region->memfd, 0))
		log_error("memnode: truncating a region failed errno=%d", errno);
	if (region->memory)
		munmap(region->memory, region->bytes);
	if (region->memfd >= 0)
		close(region->memfd);
	*region = (struct region){.memfd = -1};
}

/*
 * Maps the file at an address that huge pages can be mapped at. NULL: no address space, or
 * (hugetlb) no pages. A MAP_FIXED that fails may have unmapped what was there, and another thread
 * may have mapped its own region into the hole: so nothing is unmapped after it failed (what may
 * stay is address space), and hugetlb, which fails every day, is left to the kernel, who aligns it
 * himself.
 */
static void *region_map(int fd, uint64_t bytes, bool hugetlb)
{
	if (hugetlb) {
		void *there = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		return there == MAP_FAILED ? NULL : there;
	}
	uint64_t space = bytes + REGION_HUGE_BYTES;
	uint8_t *raw =
		mmap(NULL, space, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (raw == MAP_FAILED)
		return NULL;
	uint8_t *memory = (uint8_t *)FM_ALIGN_UP((uintptr_t)raw, REGION_HUGE_BYTES);
	bool mapped = mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
		      MAP_FAILED;
	if (memory > raw)
		munmap(raw, (size_t)(memory - raw));
	munmap(memory + bytes, (size_t)(raw + space - (memory + bytes)));
	return mapped ? memory : NULL;
}

/* A memfd of this size, mapped, holding no memory yet. */
static int region_open(struct region *region, uint64_t bytes, bool hugetlb)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugetlb ? MFD_HUGETLB : 0);
	*region = (struct region){.bytes = bytes, .hugetlb = hugetlb, .huge = hugetlb};
	region->memfd = memfd_create("farmem-region", flags);
	if (region->memfd < 0)
		return -errno;
	if (!ftruncate(region->memfd, (off_t)bytes)) {
		void *memory = region_map(region->memfd, bytes, hugetlb);
		errno = memory == NULL ? ENOMEM : errno;
		if (memory != NULL) {
			region->memory = memory;
			REGION_RACES_ARE_THE_CLIENTS(memory, bytes);
			return 0;
		}
	}
	int r = -errno;
	region_close(region);
	return r;
}

static int region_seal(struct region *region)
{
	return fcntl(region->memfd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) ? -errno : 0;
}

static int region_allocate(struct region *region)
{
	if (FAULT_POINT("region.allocate"))
		return -ENOMEM;
	int r = allocate_range(region->memfd, 0, region->bytes);
	return r ? r : region_seal(region);
}

static int region_make_hugetlb(struct region *region, uint64_t bytes)
{
	if (bytes % REGION_HUGE_BYTES != 0)
		return -EOPNOTSUPP;
	int r = region_open(region, bytes, true);
	if (r)
		return r;
	r = region_allocate(region);
	if (r)
		region_close(region);
	return r;
}

/* One huge page. False: there is none to be had, or only by rearranging the machine's memory. */
static bool region_collapse(void *at)
{
	struct timespec begun, ended;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begun);
	if (madvise(at, REGION_HUGE_BYTES, MADV_COLLAPSE) != 0)
		return false;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ended);
	return (ended.tv_sec - begun.tv_sec) * 1000000000ll + ended.tv_nsec - begun.tv_nsec <
	       REGION_COLLAPSE_CPU_NS;
}

bool region_warm(struct region *region, bool populate)
{
	if (region->hugetlb || region->warmed_bytes == region->bytes)
		return false;
	uint8_t *at = region->memory + region->warmed_bytes;
	const uint64_t bytes = FM_MIN(REGION_HUGE_BYTES, region->bytes - region->warmed_bytes);
	if (region->huge_wanted && (bytes < REGION_HUGE_BYTES || !region_collapse(at))) {
		region->huge_wanted = false; /* the machine's memory is in pieces */
		region->huge = false;
	}
	if (!region->huge_wanted && populate)
		(void)madvise(at, bytes, MADV_POPULATE_WRITE);
	region->warmed_bytes += bytes;
	if (region->huge_wanted && region->warmed_bytes == region->bytes)
		region->huge = true;
	return region->warmed_bytes < region->bytes && (region->huge_wanted || populate);
}

int region_make(struct region *region, uint64_t bytes, enum region_pages pages)
{
	if (pages == REGION_HUGETLB && !region_make_hugetlb(region, bytes))
		return 0;
	uint64_t available = machine_available_bytes();
	if (available < MACHINE_RESERVE_BYTES || available - MACHINE_RESERVE_BYTES < bytes)
		return -ENOMEM;
	int r = region_open(region, bytes, false);
	if (r)
		return r;
	region->huge_wanted = pages != REGION_SMALL;
	r = region_allocate(region);
	if (r)
		region_close(region);
	return r;
}

int region_migrate(struct region *old)
{
	struct region new;
	if (machine_available_bytes() < MACHINE_RESERVE_BYTES + old->bytes)
		return -ENOMEM;
	int r = region_open(&new, old->bytes, false);
	if (r)
		return r;
	new.huge_wanted = old->huge || old->huge_wanted;
	for (uint64_t at = 0; at < old->bytes && !r; at += REGION_HUGE_BYTES) {
		uint64_t bytes = FM_MIN(REGION_HUGE_BYTES, old->bytes - at);
		r = allocate_range(new.memfd, at, bytes);
		for (uint64_t done = 0; done < bytes && !r;) {
			ssize_t n = pread(old->memfd, new.memory + at + done, bytes - done,
				(off_t)(at + done));
			if (n == 0)
				break;
			if (n < 0 && errno != EINTR)
				r = -errno;
			done += n > 0 ? (uint64_t)n : 0;
		}
	}
	if (!r)
		r = region_seal(&new);
	if (r) {
		region_close(&new);
		return r;
	}
	region_close(old);
	*old = new;
	return 0;
}

int region_store(struct region *region, uint64_t offset, const void *from, size_t bytes)
{
	if (region->hugetlb) { /* write(2) cannot; never handed out, so nobody can truncate it */
		memcpy(region->memory + offset, from, bytes);
		return 0;
	}
	while (bytes) {
		ssize_t n = pwrite(region->memfd, from, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno != EPERM ? -errno : -EACCES;
		from = (const uint8_t *)from + n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

int region_load(const struct region *region, uint64_t offset, void *into, size_t bytes)
{
	if (region->hugetlb) { /* never handed out: see region_store */
		memcpy(into, region->memory + offset, bytes);
		return 0;
	}
	while (bytes) {
		ssize_t n = pread(region->memfd, into, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EACCES;
		into = (uint8_t *)into + n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}
