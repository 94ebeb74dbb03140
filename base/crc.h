/*
 * base/crc.h: CRC32C (Castagnoli), by the CPU's instruction (ISA-L), several lanes at once.
 */
#ifndef FM_BASE_CRC_H
#define FM_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The standard CRC32C (iSCSI): initial value and final xor of all ones. crc32c("123456789") =
 * 0xe3069283. */
uint32_t crc32c(const void *bytes, size_t length);
/* Continues: crc32c_extend(crc32c(a), b) == crc32c(a || b). */
uint32_t crc32c_extend(uint32_t crc, const void *bytes, size_t length);
/* Bit by bit: the oracle for tests. */
uint32_t crc32c_slow(const void *bytes, size_t length);

#endif
