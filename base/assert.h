/*
 * base/assert.h: programmer's mistakes stop the program, in every build.
 *
 * FM_ASSERT is always on. FM_ASSERT_EQ & co. print both values. Operating errors (a dead node,
 * ENOMEM) are never asserted: they are returned as -errno. A panic prints one line without malloc,
 * then abort()s.
 */
#ifndef FM_BASE_ASSERT_H
#define FM_BASE_ASSERT_H

#include "base/compiler.h"

FM_NORETURN void fm_panic(const char *file, int line, const char *format, ...) FM_PRINTF(3, 4);

#define FM_PANIC(...) fm_panic(__FILE__, __LINE__, __VA_ARGS__)
#define FM_ASSERT(cond)                                                                            \
	(fm_likely(cond) ? (void)0 : fm_panic(__FILE__, __LINE__, "assertion failed: %s", #cond))

#define FM_ASSERT_CMP_(a, op, b)                                                                   \
	do {                                                                                       \
		unsigned long long fm_a_ = (unsigned long long)(a);                                \
		unsigned long long fm_b_ = (unsigned long long)(b);                                \
		if (fm_unlikely(!(fm_a_ op fm_b_)))                                                \
			fm_panic(__FILE__, __LINE__,                                               \
				"assertion failed: %s " #op " %s: %llu, %llu (0x%llx, 0x%llx)",    \
				#a, #b, fm_a_, fm_b_, fm_a_, fm_b_);                               \
	} while (0)
/* unsigned comparisons */
#define FM_ASSERT_EQ(a, b) FM_ASSERT_CMP_(a, ==, b)
#define FM_ASSERT_NE(a, b) FM_ASSERT_CMP_(a, !=, b)
#define FM_ASSERT_LT(a, b) FM_ASSERT_CMP_(a, <, b)
#define FM_ASSERT_LE(a, b) FM_ASSERT_CMP_(a, <=, b)

#define FM_BUILD_ASSERT(cond, text) _Static_assert(cond, text)

#endif
