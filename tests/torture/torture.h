/*
 * tests/torture/torture.h: what the files of the torture program share.
 *
 * farmem-torture is an ordinary multithreaded program: it uses libc and nothing of farmem. It is
 * run natively, which gives the reference output, and under farmem, where every byte it checks may
 * have been far.
 *
 *   torture.c   options, slots and lives (threads that come and go), the summary
 *   pattern.c   checksummed content: fill, check, and the one line that names a wrong byte
 *   block.c     blocks: every way to allocate, resize, free, hand over
 *   kernel.c    system calls that read and write heap memory on the program's behalf
 *   company.c   children, condition variables and stacks in heap memory, signal handlers
 *
 * Invariants:
 *  1. What a block must hold is known from its descriptor alone, and descriptors are in static
 * storage, which is never far: a wrong byte in far memory cannot hide itself.
 *  2. What a slot does is drawn from slot->rng and the slot's own state only, never from what other
 * threads do or from the time: with --ops the digest is the same for every run with the same
 * parameters. Draws that concern blocks of others come from slot->side_rng.
 *  3. Every block adds its content to the digest exactly once, when it is freed, wherever that
 * happens.
 */
#ifndef FM_TORTURE_H
#define FM_TORTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OS_PAGE 4096u
#define SLOTS_MAX 32
#define BLOCKS_MAX 8192 /* per slot */
#define OVERLAYS_MAX 6
#define EXCHANGE_MAX 64
#define SCRATCH_BYTES 65536u
#define BLOCK_BYTES_MAX (8u << 20)

struct torture_options {
	uint64_t seed, ops, seconds, threads, live_bytes, life_ops, flip_at;
	const char *dir; /* for files */
	bool direct, children, madvise, mlock, mmap, signals, stacks, io, progress;
};

/* Bytes [lo, hi) were written after the ones below; key 0: zeros. */
struct overlay {
	size_t lo, hi;
	uint64_t key;
};

enum block_kind { BLOCK_HEAP, BLOCK_MMAP };

struct block {
	unsigned char *memory;
	size_t size;
	uint64_t id;
	uint64_t key; /* of what no overlay covers */
	enum block_kind kind;
	bool locked;
	bool page_aligned; /* by the way it was allocated, not by luck: the same in every run */
	unsigned overlays_count;
	struct overlay overlays[OVERLAYS_MAX];
};

struct rng {
	uint64_t state;
};

/* Counted for the summary; relaxed: only read after all threads are joined. */
struct torture_counts {
	_Atomic uint64_t ops, lives, blocks, reallocs, handed, taken, checked_bytes, written_bytes;
	_Atomic uint64_t io, direct, children, madvised, locked, condvars, alarms;
	_Atomic uint64_t live_bytes, live_bytes_max;
};

struct slot {
	unsigned index;
	struct rng rng, side_rng;
	uint64_t ops_left, next_id, life;
	size_t live_bytes, live_target;
	unsigned blocks_count;
	bool finished;
	void *stack; /* heap memory the current life runs on, or NULL */
	pthread_t thread;
	int pipe[2], socket[2], file, direct;
	struct kernel_arguments *arguments;
	struct block blocks[BLOCKS_MAX];
	unsigned char scratch[SCRATCH_BYTES] __attribute__((aligned(OS_PAGE)));
};

extern struct torture_options options;
extern struct torture_counts counts;
extern _Atomic uint64_t digest;

#define count_up(field_, n_)                                                                       \
	atomic_fetch_add_explicit(&counts.field_, (uint64_t)(n_), memory_order_relaxed)

/* torture.c */
uint64_t rng_next(struct rng *rng);
/* 0 .. below-1 */
uint64_t rng_below(struct rng *rng, uint64_t below);
/* One line on stderr, then the end with status 1. The first caller wins. */
_Noreturn void torture_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* pattern.c. `bytes` stands for offset lo of a block. */
void pattern_fill(unsigned char *bytes, size_t lo, size_t hi, uint64_t key);
/* Ends the program when [lo, hi) is not what the block must hold; folds the bytes into *sum unless
 * NULL. */
void pattern_check(
	const struct block *block, const unsigned char *bytes, size_t lo, size_t hi, uint64_t *sum);
/* End of the stretch from `lo` on that has one key, at most hi. */
size_t pattern_stretch(const struct block *block, size_t lo, size_t hi, uint64_t *key);

/* block.c */
struct block *block_pick(struct slot *slot, size_t at_least);
void block_allocate(struct slot *slot);
void block_release(struct slot *slot);
void block_resize(struct slot *slot);
void block_rewrite(struct slot *slot);
void block_peek(struct slot *slot);
void block_hand_over(struct slot *slot);
void block_take(struct slot *slot);
void block_libc(struct slot *slot);
/* Wrongs a byte on purpose: the proof that the checks see. */
void block_flip(struct slot *slot);
void block_release_all(struct slot *slot);
void block_exchange_drain(void);
/* Writes what the descriptor says [lo, hi) holds. */
void block_restore(struct block *block, size_t lo, size_t hi);
/* Says that [lo, hi) now holds the pattern of key. */
void block_overlay(struct slot *slot, struct block *block, struct overlay overlay);
/* A random window of the block of at most `most` bytes. */
void block_window(struct rng *rng, const struct block *block, size_t most, struct overlay *window);
/* The same, of whole OS pages; false when the block has none. */
bool block_page_window(
	struct rng *rng, const struct block *block, size_t most, struct overlay *window);

/* kernel.c */
void kernel_open(struct slot *slot);
void kernel_close(struct slot *slot);
void kernel_io(struct slot *slot);
void kernel_direct(struct slot *slot);
void kernel_forget(struct slot *slot);
void kernel_lock(struct slot *slot);
void kernel_call(struct slot *slot);

/* company.c */
void company_child(struct slot *slot);
void company_condvar(struct slot *slot);
void *company_stack_new(size_t bytes);
void company_altstack_begin(void **stack);
void company_altstack_end(void *stack);
void company_alarm_start(void);
/* Checks that no increment made in a handler was lost. */
void company_alarm_stop(void);

#endif
