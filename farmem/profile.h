/*
 * farmem/profile.h: who faults, where in the program, and what it costs: samples of faults, taken
 * by the handler threads while the faulting thread is blocked, for `farmem record`.
 *
 * Off unless --profile names a file: then a handler's turn costs one comparison. A sample is the
 * faulting thread's program counter, stack pointer and the stack above it, read from
 * /proc/self/task/TID/syscall, which tells them of a blocked thread: no signal, no ptrace, no debug
 * registers, and nothing of it can be seen by the program. Each handler takes about
 * --profile-rate samples a second, at random distances; a sample stands for all faults since the
 * one before.
 *
 * Life: profile_open (runtime.c, before handlers run) -> profile_take / profile_look (a handler's
 * own thread) -> profile_flush (the runtime's main thread, every turn; and once at exit).
 */
#ifndef FM_FARMEM_PROFILE_H
#define FM_FARMEM_PROFILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "farmem/profile_file.h"
#include "farmem/span.h"

#define PROFILE_OPEN_MAX 8            /* samples of one handler whose fault is not served yet */
#define PROFILE_RING_BYTES (1u << 22) /* of one handler, until the main thread writes it out */
#define PROFILE_HANDLERS_MAX 64

/* One sample under way. */
struct profile_open_sample {
	bool used;
	uint32_t page;
	uint64_t begun_ns;
	struct profile_sample sample;
	uint8_t stack[PROFILE_STACK_BYTES_MAX];
};

/* Of one handler: it fills, the main thread empties. */
struct profile_thread {
	struct profile *profile;
	uint64_t until_next; /* faults */
	uint64_t since_last;
	uint64_t last_ns;
	uint64_t random;
	uint32_t open_count;
	struct profile_open_sample *open; /* PROFILE_OPEN_MAX */
	uint8_t *ring;
	/* Partners: the handler stores head (release), the main thread tail (release). Bytes ever.
	 */
	_Atomic uint64_t head, tail;
	_Atomic uint64_t faults, samples, dropped, sampling_ns;
};

struct profile {
	char path[256]; /* empty: off */
	uint64_t interval_ns;
	uint64_t range_begin, range_end; /* far-capable addresses: never read by us */
	_Atomic uint64_t *words;
	uint64_t begin_ns, maps_ns, maps_hash;
	bool said;
	pthread_mutex_t lock; /* of flushing */
	unsigned threads_count;
	struct profile_thread threads[PROFILE_HANDLERS_MAX];
};

static inline bool profile_on(const struct profile *profile)
{
	return profile->path[0] != '\0';
}

/* Once, before handlers start; without a path in `config` it stays off. 0 or -ENOMEM. */
int profile_open(struct profile *profile, const struct fm_config *config, _Atomic uint64_t *words,
	const uint8_t *range, uint64_t pages, unsigned handlers) FM_MUST_USE;
/* A fault was read and is about to be served: counts it, and perhaps samples it. */
void profile_take(struct profile_thread *thread, uint32_t page, uint32_t tid);
/* Have open samples' faults been served? Cheap when there are none. */
void profile_look(struct profile_thread *thread);
/* Writes out what the handlers gathered. final: the program ends; says how many. Any thread whose
 * descriptors are those that `path` is to be opened in. */
void profile_flush(struct profile *profile, bool final);

#endif
