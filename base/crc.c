/*
 * base/crc.c: CRC32C over ISA-L.
 *
 * ISA-L's crc32_iscsi is the bare register: no initial ones, no final xor. Both are put on here, so
 * that a CRC of ours is the standard one and can be continued from its finished value. Its length
 * is an int: long buffers go in pieces.
 */
#include "base/crc.h"

#include <isa-l/crc.h>

#include "base/compiler.h"

#define CRC_PIECE_MAX ((size_t)1 << 30)
#define CRC_POLYNOMIAL_REFLECTED 0x82f63b78u

uint32_t crc32c_extend(uint32_t crc, const void *bytes, size_t length)
{
	uint32_t remainder = ~crc;
	const uint8_t *at = bytes;

	while (length > 0) {
		size_t piece = FM_MIN(length, CRC_PIECE_MAX);

		/* ISA-L takes a pointer to non-const and only reads */
		remainder = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)piece, remainder);
		at += piece;
		length -= piece;
	}
	return ~remainder;
}

uint32_t crc32c(const void *bytes, size_t length)
{
	return crc32c_extend(0, bytes, length);
}

uint32_t crc32c_slow(const void *bytes, size_t length)
{
	const uint8_t *at = bytes;
	uint32_t remainder = ~0u;

	for (size_t i = 0; i < length; i++) {
		remainder ^= at[i];
		for (int bit = 0; bit < 8; bit++)
			remainder =
				(remainder >> 1) ^ ((remainder & 1) ? CRC_POLYNOMIAL_REFLECTED : 0);
	}
	return ~remainder;
}
