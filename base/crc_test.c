/* base/crc_test.c: the fast CRC32C against the standard's vectors and against the slow twin. */
#include "base/crc.h"

#include "base/mem.h"
#include "base/test.h"

/* RFC 3720, appendix B.4 */
TEST(the_vectors_of_the_iscsi_standard_come_out)
{
	uint8_t bytes[32];

	CHECK_EQ(crc32c("123456789", 9), 0xe3069283);
	CHECK_EQ(crc32c("", 0), 0);
	memset(bytes, 0, sizeof(bytes));
	CHECK_EQ(crc32c(bytes, 32), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	CHECK_EQ(crc32c(bytes, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	CHECK_EQ(crc32c(bytes, 32), 0x46dd794e);
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)(31 - i);
	CHECK_EQ(crc32c(bytes, 32), 0x113fdb5c);
}

TEST(fast_and_slow_agree_at_every_length_and_alignment)
{
	static uint8_t bytes[5000];
	uint64_t seed = 1;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)test_random(&seed);
	for (unsigned i = 0; i < 600; i++) {
		size_t length = i < 300 ? i : test_random(&seed) % 4500;
		size_t start = test_random(&seed) % 100;

		CHECK_EQ(crc32c(bytes + start, length), crc32c_slow(bytes + start, length));
	}
}

TEST(a_crc_continued_piece_by_piece_is_the_crc_of_the_whole)
{
	static uint8_t bytes[4096];
	uint64_t seed = 2;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)test_random(&seed);
	for (unsigned round = 0; round < 200; round++) {
		size_t cut = test_random(&seed) % (sizeof(bytes) + 1);
		uint32_t crc = crc32c_extend(crc32c(bytes, cut), bytes + cut, sizeof(bytes) - cut);

		CHECK_EQ(crc, crc32c(bytes, sizeof(bytes)));
	}
	CHECK_EQ(crc32c_extend(0x12345678, bytes, 0), 0x12345678);
}

TEST(every_single_flipped_bit_of_a_page_changes_the_crc)
{
	static uint8_t page[4096];
	uint64_t seed = 3;
	uint32_t crc;

	for (unsigned i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)test_random(&seed);
	crc = crc32c(page, sizeof(page));
	for (unsigned bit = 0; bit < 8 * sizeof(page); bit++) {
		page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		CHECK_NE(crc32c(page, sizeof(page)), crc);
		page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

TEST(buffers_longer_than_an_int_go_in_pieces)
{
	size_t length =
		((size_t)1 << 31) + 12345; /* untouched zero pages: costs no memory to speak of */
	uint8_t *bytes = mem_map(length);
	uint32_t whole, pieces = 0;

	if (bytes == NULL)
		TEST_SKIP("no 2 GiB of address space");
	bytes[length - 1] = 1;
	whole = crc32c(bytes, length);
	for (size_t at = 0; at < length; at += 100 << 20)
		pieces = crc32c_extend(
			pieces, bytes + at, length - at < (100u << 20) ? length - at : 100u << 20);
	mem_unmap(bytes, length);
	CHECK_EQ(whole, pieces);
}
