/*
 * base/futex.h: sleeping on a 32-bit word. Process-private.
 */
#ifndef FM_BASE_FUTEX_H
#define FM_BASE_FUTEX_H

#include <stdint.h>

/*
 * Sleeps while *word == expected, until woken or timeout_ns from now (UINT64_MAX: no limit).
 * 0, -EAGAIN (the word had changed), -ETIMEDOUT, -EINTR. May wake spuriously: check the word again.
 */
int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
/* Wakes up to `count` sleepers (INT32_MAX: all). */
void futex_wake(_Atomic uint32_t *word, int count);

#endif
