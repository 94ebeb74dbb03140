/*
 * lb/probe_maps.h: what lb/probe.bpf.c and its loader (lb/probe_kernel.c) agree upon: the maps'
 * keys and values. Plain C for both compilers.
 */
#ifndef FM_LB_PROBE_MAPS_H
#define FM_LB_PROBE_MAPS_H

#include <stdint.h>

#define PROBE_PREFIXES_MAX 64u   /* in an allow list */
#define PROBE_INTERFACES_MAX 64u /* attached to by one server */

/* Key of the trie of allowed sources; IPv4 as ::ffff:a.b.c.d, in network byte order. */
struct probe_prefix {
	uint32_t bits; /* 0..128 */
	uint8_t address[16];
};
_Static_assert(sizeof(struct probe_prefix) == 20, "a contract with lb/probe.bpf.c");

/* One per CPU; struct probe_server_stats is their sum. */
struct probe_counters {
	uint64_t answered, refused_source, malformed, stale;
};

#endif
