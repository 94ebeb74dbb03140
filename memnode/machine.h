/*
 * memnode/machine.h: what the daemon has to know of the machine it lends.
 */
#ifndef FM_MEMNODE_MACHINE_H
#define FM_MEMNODE_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define MACHINE_ID_BYTES 64

struct machine_memory {
	uint64_t total_bytes;     /* MemTotal, or the memory cgroup's limit when that is less */
	uint64_t available_bytes; /* MemAvailable, likewise */
	uint64_t huge_pages_free; /* of the default size */
};

/* 0 or -errno. */
int machine_memory_read(struct machine_memory *memory) FM_MUST_USE;
/* /etc/machine-id, else the kernel's boot id, as text: equal for all processes of one machine.
 * 0 or -errno. */
int machine_id_read(char id[MACHINE_ID_BYTES]) FM_MUST_USE;

#endif
