/*
 * tests/sim/hooks_decl.h: what coro.c offers to hooks.h and to sim_test.c.
 */
#ifndef FM_TESTS_SIM_HOOKS_DECL_H
#define FM_TESTS_SIM_HOOKS_DECL_H

#include <pthread.h>
#include <stdint.h>

extern int sim_yield_countdown; /* passages left until the next switch */
extern int sim_yield_spread;    /* usual distance between switches: small for tight races */
void sim_yield_now(void);
int sim_mutex_lock(pthread_mutex_t *mutex);
int sim_mutex_unlock(pthread_mutex_t *mutex);
void sim_seed(uint64_t seed);
void sim_clock_open(void);
/* sim_test.c: seed, commit and the command that repeats this run. */
void sim_print_command(void);
void sim_print_state(void);

#endif
