/*
 * memnode/data_verbs.h: lets RDMA clients read and write leased regions by themselves: accepts
 * their connections, registers regions, and ends both when a lease ends. No thread of ours has a
 * part in the reads and writes. Used by main.c and by tests.
 */
#ifndef FM_MEMNODE_DATA_VERBS_H
#define FM_MEMNODE_DATA_VERBS_H

#include <stdint.h>

#include "base/compiler.h"
#include "memnode/lease.h"

#define DATA_VERBS_CONNECTIONS_MAX 8192
#define DATA_VERBS_ADDRESS_BYTES 80

struct data_verbs;

struct data_verbs_options {
	const char *address;        /* "10.1.2.3:7402", "[fd00::1]:0", "host:7402", "0.0.0.0:0" */
	struct lease_table *leases; /* outlives this */
};

struct data_verbs_stats {
	uint32_t queue_pairs_count, regions_count, domains_count; /* in being now */
	uint64_t accepted_count;
	uint64_t refused_count; /* requests turned away: capability, garbage, another version, room
				 */
	uint64_t fences_count;  /* connections ended because a successor named them */
};

/* The first IPv4 address of this machine that an RDMA device has. 0, -ENOSYS or -ENODEV. */
int data_verbs_find(char address[DATA_VERBS_ADDRESS_BYTES]) FM_MUST_USE;
/*
 * Binds, listens, starts the thread that accepts, and has the lease table tell of leases that end
 * (one data_verbs per table). 0 or -errno: -ENOSYS no RDMA in this kernel, -ENODEV no RDMA device
 * with this address, -EADDRNOTAVAIL no such address here, -EADDRINUSE, -EINVAL no such form.
 */
int data_verbs_open(
	const struct data_verbs_options *options, struct data_verbs **verbs) FM_MUST_USE;
/* Ends all connections; every queue pair and registration is gone. NULL is fine. */
void data_verbs_close(struct data_verbs *verbs);
/* What clients connect to, numeric: "10.1.2.3:7402", "[fd00::1]:7402"; "0.0.0.0:7402": all here. */
const char *data_verbs_address(const struct data_verbs *verbs);
void data_verbs_stats(struct data_verbs *verbs, struct data_verbs_stats *stats);

#endif
