/*
 * base/mem.c: memory for the runtime, by bare system calls.
 *
 * Bare, because libfarmem interposes mmap, munmap and madvise: what the runtime maps for itself
 * must never pass through there, or it could become far-capable (invariant 8).
 */
#include "base/mem.h"

#include <isa-l/mem_routines.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault_point.h"

#define MEM_HUGE_SIZE ((size_t)2 << 20)

static void *mem_map_bytes(size_t bytes)
{
	if (FAULT_POINT("mem.map"))
		return NULL;
	long address = syscall(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);

	return address == -1 ? NULL : (void *)address;
}

static void mem_unmap_bytes(uintptr_t address, size_t bytes)
{
	long result;

	if (bytes == 0)
		return;
	result = syscall(SYS_munmap, address, bytes);
	FM_ASSERT_EQ(result, 0);
}

void *mem_map(size_t bytes)
{
	if (bytes == 0 || bytes > SIZE_MAX - FM_PAGE_SIZE)
		return NULL;
	return mem_map_bytes(FM_ALIGN_UP(bytes, (size_t)FM_PAGE_SIZE));
}

void *mem_map_huge(size_t bytes)
{
	size_t rounded, slack;
	uintptr_t raw, aligned;

	if (bytes == 0 || bytes > SIZE_MAX - 2 * MEM_HUGE_SIZE)
		return NULL;
	rounded = FM_ALIGN_UP(bytes, (size_t)FM_PAGE_SIZE);
	raw = (uintptr_t)mem_map_bytes(rounded + MEM_HUGE_SIZE);
	if (raw == 0)
		return NULL;
	aligned = FM_ALIGN_UP(raw, (uintptr_t)MEM_HUGE_SIZE);
	slack = aligned - raw;
	mem_unmap_bytes(raw, slack);
	mem_unmap_bytes(aligned + rounded, MEM_HUGE_SIZE - slack);
	/* a wish: a kernel without huge pages refuses, and ordinary ones serve as well */
	(void)syscall(SYS_madvise, aligned, rounded, MADV_HUGEPAGE);
	return (void *)aligned;
}

void mem_unmap(void *memory, size_t bytes)
{
	if (memory == NULL)
		return;
	FM_ASSERT_EQ((uintptr_t)memory % FM_PAGE_SIZE, 0);
	mem_unmap_bytes((uintptr_t)memory, FM_ALIGN_UP(bytes, (size_t)FM_PAGE_SIZE));
}

bool mem_is_zero(const void *memory, size_t length)
{
	FM_ASSERT_EQ((uintptr_t)memory % FM_CACHE_LINE, 0);
	FM_ASSERT_EQ(length % FM_CACHE_LINE, 0);
	/* ISA-L takes a pointer to non-const and only reads */
	return length == 0 || isal_zero_detect((void *)(uintptr_t)memory, length) == 0;
}
