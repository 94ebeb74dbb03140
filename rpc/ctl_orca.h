/*
 * rpc/ctl_orca.h: a server's load as gRPC's world writes it: an OrcaLoadReport, the trailer
 * `endpoint-load-metrics-bin` of a reply (gRFC A51). Used by ctl_server.c and ctl_client.c.
 *
 * Our own numbers go as named metrics: queue_delay_us, in_flight, free_bytes, epoch, draining.
 */
#ifndef FM_RPC_CTL_ORCA_H
#define FM_RPC_CTL_ORCA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

#define ORCA_TRAILER "endpoint-load-metrics-bin"
/* The same bytes once more: gRPC core keeps the first one for its own balancers and shows it to no
 * program (checked for 1.51: ctl_orca_test.c). */
#define ORCA_TRAILER_OURS "farmem-load-bin"
#define ORCA_BYTES_MAX 256u   /* ours */
#define ORCA_PARSED_MAX 4096u /* of anybody's; longer ones are not looked at */

struct orca_report {
	struct load load;
	double cpu_utilization; /* 0..1 of the machine; 0: not known, gRPC's balancers skip it */
	double mem_utilization; /* 0..1 */
	double rps;             /* requests per second; 0: not known */
};

/* Bytes written, at most ORCA_BYTES_MAX. */
size_t orca_encode(const struct orca_report *report, uint8_t bytes[ORCA_BYTES_MAX]);
/* Any bytes. False: no report, or one with neither queue_delay_us nor in_flight. Numbers that
 * are none, or beyond what a load holds, are clipped. */
bool orca_decode(const void *bytes, size_t length, struct load *load) FM_MUST_USE;

#endif
