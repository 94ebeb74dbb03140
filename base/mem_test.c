/* base/mem_test.c */
#include "base/mem.h"

#include <stdint.h>
#include <sys/mman.h>

#include "base/test.h"

#define HUGE ((size_t)2 << 20)

static bool is_mapped(void *address)
{
	unsigned char resident;

	return mincore(address, 1, &resident) == 0;
}

TEST(memory_is_zeroed_page_aligned_and_writable_to_its_last_byte)
{
	size_t bytes = 3 * 4096 + 5;
	uint8_t *memory = mem_map(bytes);

	CHECK(memory != NULL);
	CHECK_EQ((uintptr_t)memory % 4096, 0);
	for (size_t i = 0; i < bytes; i++)
		CHECK_EQ(memory[i], 0);
	memset(memory, 0xff, bytes);
	mem_unmap(memory, bytes);
	CHECK(!is_mapped(memory));
	CHECK(!is_mapped(memory + 3 * 4096));
}

TEST(huge_page_memory_is_2_MiB_aligned_and_leaves_nothing_behind)
{
	const size_t sizes[] = {1, 4096, HUGE - 1, HUGE, HUGE + 1, 5 * HUGE + 4097};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(sizes); i++) {
		uint8_t *memory = mem_map_huge(sizes[i]);

		CHECK(memory != NULL);
		CHECK_EQ((uintptr_t)memory % HUGE, 0);
		memory[0] = memory[sizes[i] - 1] = 1;
		mem_unmap(memory, sizes[i]);
		CHECK(!is_mapped(memory));
		CHECK(!is_mapped(memory + FM_ALIGN_DOWN(sizes[i] - 1, (size_t)4096)));
	}
}

TEST(impossible_sizes_give_null)
{
	CHECK(mem_map(0) == NULL);
	CHECK(mem_map_huge(0) == NULL);
	CHECK(mem_map(SIZE_MAX) == NULL);
	CHECK(mem_map_huge(SIZE_MAX) == NULL);
	CHECK(mem_map((size_t)1 << 60) == NULL);
	mem_unmap(NULL, 4096);
}

TEST(one_byte_anywhere_makes_memory_not_zero)
{
	uint8_t *memory = mem_map(8192);

	CHECK(memory != NULL);
	CHECK(mem_is_zero(memory, 0));
	CHECK(mem_is_zero(memory, 8192));
	for (size_t i = 0; i < 8192; i++) {
		memory[i] = (uint8_t)(1u << (i % 8));
		CHECK(!mem_is_zero(memory, 8192));
		CHECK_EQ(mem_is_zero(memory, 64), i >= 64);
		memory[i] = 0;
	}
	mem_unmap(memory, 8192);
}
