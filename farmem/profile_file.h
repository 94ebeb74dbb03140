/*
 * farmem/profile_file.h: the file that `farmem record` makes and `farmem report` reads.
 *
 * Written by the runtimes of all programs of a tree (farmem/profile.c), each appending whole
 * records with one write(2): O_APPEND keeps them apart. Read by apps/farmem_report*.c, which trusts
 * nothing in it. Little-endian, aligned to 8 bytes. A program that is killed loses its last
 * moments, and may leave a record cut short at the end.
 */
#ifndef FM_FARMEM_PROFILE_FILE_H
#define FM_FARMEM_PROFILE_FILE_H

#include <stdint.h>

#define PROFILE_MAGIC "FMPROF1\n" /* the first 8 bytes of the file */
#define PROFILE_MAGIC_BYTES 8u
#define PROFILE_RECORD_BYTES_MAX (1u << 20)
#define PROFILE_STACK_BYTES_MAX 8192u

enum profile_type {
	PROFILE_SAMPLE = 1,
	PROFILE_MAPS,    /* text of /proc/PID/maps: the newest of a process counts */
	PROFILE_TOTALS,  /* struct profile_totals: the newest of a process counts */
	PROFILE_COMMAND, /* text: the program's name */
};

/* Before every record; `bytes` includes it and the padding to 8. */
struct profile_record {
	uint32_t bytes;
	uint16_t type;
	uint16_t padding; /* how many of the last bytes are none of the payload */
	uint32_t pid;
	uint32_t reserved;
};

enum profile_kind {
	PROFILE_FETCHED = 0, /* the page was far */
	PROFILE_TOUCHED,     /* never touched before: zeros */
	PROFILE_RESCUED,     /* on its way out */
	PROFILE_OTHER,       /* joined another's fetch, or came late */
	PROFILE_KINDS,
};

/* Followed by stack_bytes of the faulting thread's stack, from sp up. */
struct profile_sample {
	uint64_t at_ns;      /* monotonic */
	uint64_t address;    /* of the page */
	uint64_t pc, sp;     /* of the faulting thread; 0: could not be had */
	uint64_t latency_ns; /* from the handler's taking it up to its being served */
	uint64_t weight;     /* faults it stands for: those since the sample before */
	uint32_t tid;
	uint32_t kind;      /* enum profile_kind */
	uint32_t in_kernel; /* the kernel touched it for a system call of the thread */
	uint32_t stack_bytes;
};

struct profile_totals {
	uint64_t begin_ns, end_ns; /* monotonic: of recording, so far */
	uint64_t faults, samples;
	uint64_t dropped;     /* samples for which there was no room: their weight went on */
	uint64_t sampling_ns; /* what taking samples cost the handlers, altogether */
};

#endif
