/*
 * rpc/load.h: how busy a server is: the slot where it says so, and the few numbers that travel.
 *
 * A server (rpc/urpc_server.c, memnode) writes its slot by plain stores. Whoever answers probes
 * reads it: an eBPF program in the kernel (lb/probe.bpf.c; the slot then lies in a BPF array that
 * is mapped here) or user space (lb/probe_wire.c). The layout is a contract between them.
 *
 * Invariants:
 * 1. One writer at a time. A writer that is starved in the middle of publishing leaves the version
 *    before readable: there are two reports, and only the one that is not current is written.
 * 2. A reader uses a report only if `version` was the same before and after it was copied. Reports
 *    are copied in words whose release and acquire keep that order on every machine (and tell
 *    TSan that this is no race).
 * 3. A report whose stamp is older than LOAD_STALE_NS says nothing: "unhealthy".
 */
#ifndef FM_RPC_LOAD_H
#define FM_RPC_LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#define LOAD_STALE_NS 100000000ull /* publishers refresh at least every LOAD_REFRESH_NS */
#define LOAD_REFRESH_NS 20000000ull
#define LOAD_READ_TRIES_MAX 4

#define LOAD_DRAINING 1u  /* takes no new work: send it elsewhere */
#define LOAD_UNHEALTHY 2u /* the slot is stale or was never written; set by who answers */

/* What a server says of itself. Little-endian machines only (the BPF program copies it raw). */
struct load_report {
	uint64_t stamp_ns;         /* CLOCK_MONOTONIC at the moment of writing */
	uint64_t waiting_since_ns; /* arrival of the oldest request that waits; 0: nobody waits */
	uint64_t free_bytes;       /* memory it could lend; 0 for those who lend none */
	uint32_t delay_ns;         /* queueing delay (packet + thread) of the last request begun */
	uint16_t in_flight;        /* arrived, not yet answered; saturates */
	uint16_t flags;            /* LOAD_DRAINING */
};

/* Two cache lines; zeroed is "never written". */
struct load_slot {
	_Atomic uint64_t version; /* number of the newest report: reports[version & 1]; 0: none */
	uint32_t epoch;           /* drawn by the server at start, not 0 */
	uint16_t port;            /* host byte order; whom it is about */
	uint16_t reserved;
	uint64_t reserved8[2];
	struct load_report reports[2];
	uint64_t reserved16[4];
} FM_ALIGNED(64);
_Static_assert(sizeof(struct load_report) == 32, "a contract with lb/probe.bpf.c");
_Static_assert(sizeof(struct load_slot) == 128, "a contract with lb/probe.bpf.c");

/* What travels: in every reply of urpc, in the answer to a probe, and into a balancer's pool. */
struct load {
	uint32_t epoch;    /* another one than before: the server restarted */
	uint32_t delay_ns; /* a request arriving now would wait about this long */
	uint16_t in_flight;
	uint16_t flags; /* LOAD_* */
	uint64_t free_bytes;
};

typedef uint64_t __attribute__((may_alias)) load_word;
#define LOAD_REPORT_WORDS (sizeof(struct load_report) / sizeof(load_word))

/* One writer at a time (invariant 1). Costs two cache lines and no system call. */
static inline void load_publish(struct load_slot *slot, const struct load_report *report)
{
	/* relaxed: the only writer reads its own value */
	uint64_t version = atomic_load_explicit(&slot->version, memory_order_relaxed) + 1;
	const load_word *from = (const load_word *)report;
	load_word *to = (load_word *)&slot->reports[version & 1];

	/* release: not before the version of the call before, which tells who still reads the
	 * report that is overwritten here; pairs with the acquire of the words in load_read */
	for (unsigned i = 0; i < LOAD_REPORT_WORDS; i++)
		__atomic_store_n(&to[i], from[i], __ATOMIC_RELEASE);
	/* release: pairs with the acquire in load_read; the program in the kernel reads in order */
	atomic_store_explicit(&slot->version, version, memory_order_release);
}

/* The load as of now_ns. False, with LOAD_UNHEALTHY set, when the slot is stale or empty. */
static inline bool load_read(const struct load_slot *slot, uint64_t now_ns, struct load *load)
{
	struct load_report report;
	const load_word *from;
	uint64_t before, waited_ns;

	*load = (struct load){.epoch = slot->epoch, .flags = LOAD_UNHEALTHY};
	for (unsigned try = 0; try < LOAD_READ_TRIES_MAX; try++) {
		before = atomic_load_explicit(&slot->version, memory_order_acquire);
		if (before == 0)
			return false;
		from = (const load_word *)&slot->reports[before & 1];
		/* acquire: the version below is read after all of them */
		for (unsigned i = 0; i < LOAD_REPORT_WORDS; i++)
			((load_word *)&report)[i] = __atomic_load_n(&from[i], __ATOMIC_ACQUIRE);
		if (atomic_load_explicit(&slot->version, memory_order_relaxed) != before)
			continue;
		if (now_ns > report.stamp_ns && now_ns - report.stamp_ns > LOAD_STALE_NS)
			return false;
		waited_ns = report.waiting_since_ns != 0 && now_ns > report.waiting_since_ns
				    ? now_ns - report.waiting_since_ns
				    : 0;
		load->delay_ns = report.delay_ns;
		if (waited_ns > load->delay_ns)
			load->delay_ns = waited_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)waited_ns;
		load->in_flight = report.in_flight;
		load->flags = report.flags;
		load->free_bytes = report.free_bytes;
		return true;
	}
	return false;
}

#endif
