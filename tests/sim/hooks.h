/*
 * tests/sim/hooks.h: put in front of every source of the runtime that the simulator compiles (gcc
 * -include).
 *
 * Every atomic load, store and compare-and-swap, every lock and every spin becomes a place where
 * the simulator may switch to another coroutine: so interleavings between the steps of the
 * lock-free paths are explored, not just those between system calls. Orderings weaker than
 * sequential consistency are not (that is for tests/model and TSan). The runtime's own sources stay
 * as they are.
 */
#ifndef FM_TESTS_SIM_HOOKS_H
#define FM_TESTS_SIM_HOOKS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* Perhaps lets somebody else run; the seed decides. Cheap when it does not. */
extern int sim_yield_countdown;
void sim_yield_now(void);
static inline void sim_yield(void)
{
	if (fm_unlikely(--sim_yield_countdown <= 0))
		sim_yield_now();
}
static inline void sim_relax(void)
{
	sim_yield_now();
}
int sim_mutex_lock(pthread_mutex_t *mutex);
int sim_mutex_unlock(pthread_mutex_t *mutex);

#define pthread_mutex_lock sim_mutex_lock
#define pthread_mutex_unlock sim_mutex_unlock
#define fm_cpu_relax sim_relax

/* The compiler's own forms, taken before they are hidden. */
#define SIM_LOAD(object, order)                                                                    \
	({                                                                                         \
		sim_yield();                                                                       \
		__auto_type sim_at_ = (object);                                                    \
		sim_raw_load(sim_at_, order);                                                      \
	})
#if defined(__clang__)
#define sim_raw_load(at, order) __c11_atomic_load(at, order)
#define SIM_STORE(object, value, order) (sim_yield(), __c11_atomic_store(object, value, order))
#define SIM_SWAP(object, expected, desired, ok, bad)                                               \
	(sim_yield(), __c11_atomic_compare_exchange_strong(object, expected, desired, ok, bad))
#define SIM_AND(object, value, order) (sim_yield(), __c11_atomic_fetch_and(object, value, order))
#else
#define sim_raw_load(at, order)                                                                    \
	({                                                                                         \
		__typeof__((void)0, *(at)) sim_value_;                                             \
		__atomic_load(at, &sim_value_, order);                                             \
		sim_value_;                                                                        \
	})
#define SIM_STORE(object, value, order)                                                            \
	({                                                                                         \
		sim_yield();                                                                       \
		__auto_type sim_at_ = (object);                                                    \
		__typeof__((void)0, *sim_at_) sim_value_ = (value);                                \
		__atomic_store(sim_at_, &sim_value_, order);                                       \
	})
#define SIM_SWAP(object, expected, desired, ok, bad)                                               \
	({                                                                                         \
		sim_yield();                                                                       \
		__auto_type sim_at_ = (object);                                                    \
		__typeof__((void)0, *sim_at_) sim_value_ = (desired);                              \
		__atomic_compare_exchange(sim_at_, expected, &sim_value_, 0, ok, bad);             \
	})
#define SIM_AND(object, value, order) (sim_yield(), __atomic_fetch_and(object, value, order))
#endif

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak_explicit
#undef atomic_fetch_and_explicit
#define atomic_load_explicit SIM_LOAD
#define atomic_store_explicit SIM_STORE
#define atomic_compare_exchange_strong_explicit SIM_SWAP
#define atomic_compare_exchange_weak_explicit SIM_SWAP
#define atomic_fetch_and_explicit SIM_AND

#endif
