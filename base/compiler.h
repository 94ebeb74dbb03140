/* base/compiler.h: the few compiler words everybody uses. */
#ifndef FM_BASE_COMPILER_H
#define FM_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define fm_likely(x) __builtin_expect(!!(x), 1)
#define fm_unlikely(x) __builtin_expect(!!(x), 0)
#define FM_MUST_USE __attribute__((warn_unused_result))
#define FM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define FM_NORETURN __attribute__((noreturn))
#define FM_ALIGNED(n) __attribute__((aligned(n)))
#define FM_EXPORT __attribute__((visibility("default")))
#define FM_CACHE_LINE 64
#define FM_PAGE_SHIFT 12
#define FM_PAGE_SIZE 4096u
#define FM_ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define FM_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define FM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FM_MAX(a, b) ((a) > (b) ? (a) : (b))
/* align must be a power of two */
#define FM_ALIGN_UP(x, align) (((x) + ((align)-1)) & ~((align)-1))
#define FM_ALIGN_DOWN(x, align) ((x) & ~((align)-1))

static inline void fm_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
