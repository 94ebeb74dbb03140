/*
 * farmem/farmem.h: far memory for programs that ask for it by name.
 *
 * Unmodified programs need none of this: `farmem run` preloads libfarmem-malloc.so, which is a
 * malloc on top of it. Configuration: FARMEM_* environment variables (farmem-run(1)). All functions
 * are thread-safe unless said otherwise.
 */
#ifndef FARMEM_FARMEM_H
#define FARMEM_FARMEM_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Reads the configuration and reserves addresses. Called by every other function when need be; call
 * it early to see its error. 0, -EINVAL (configuration; one line was written to stderr), -ENOMEM
 * (no addresses). Threads, agent and connections start later, when memory handed out nears the
 * budget.
 */
int fm_open(void);

/*
 * Memory that may go far: zeroed, read-write, private. bytes: any; alignment: a power of two, at
 * least 4096 is used. NULL when the address range is used up. The runtime may take its pages away
 * at any time and brings them back at the next access, by anybody, the kernel included. It is never
 * given back; fm_purge makes it cheap.
 */
void *fm_map(size_t bytes, size_t alignment);

/* Drops the contents of all whole pages inside: near and far. They read as zeros. The memory stays
 * usable. */
void fm_purge(void *memory, size_t bytes);

/* Is this address in far-capable memory? */
bool fm_owns(const void *address);

/* Starts the runtime now instead of when the budget nears (before dropping privileges, say). Does
 * not wait. */
void fm_start(void);

/* The counters as one JSON object (fields of struct catalog_stats). Returns bytes written, or
 * -ENOSPC. */
int fm_stats(char *text, size_t size);

const char *fm_version(void);

#ifdef __cplusplus
}
#endif

#endif
