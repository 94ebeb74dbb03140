/*
 * memnode/node_load.h: how busy the node is, for whoever chooses among nodes: a load slot
 * (rpc/load.h), answers to probes on the UDP port that has the number of the data port, and the
 * ORCA report in the answers of the control plane. Used by main.c.
 *
 * One thread publishes at least every LOAD_REFRESH_NS and answers the probes that no eBPF program
 * answers, each from what it has just published. Without a data port there is no UDP port, and no
 * thread; where it is taken by somebody else, or a mode is not to be had, the node works all the
 * same and says so once in its log.
 */
#ifndef FM_MEMNODE_NODE_LOAD_H
#define FM_MEMNODE_NODE_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "lb/probe.h"
#include "memnode/data_server.h"
#include "memnode/lease.h"
#include "rpc/ctl_orca.h"

struct node_load;

struct node_load_options {
	struct data_server *data; /* both outlive it */
	struct lease_table *leases;
	const char *address;  /* the data plane's, "0.0.0.0:7401"; "": none */
	uint16_t port;        /* that it got; 0: no probes */
	enum probe_mode mode; /* PROBE_USER: its own socket; PROBE_NONE: nobody answers */
	const char *allow;    /* who may ask: "10.0.0.0/8,.."; NULL: everybody */
};

/* 0; -EINVAL (a line was logged: `allow`); -ENOMEM; -errno of starting the thread. */
int node_load_open(const struct node_load_options *options, struct node_load **load) FM_MUST_USE;
/* NULL is fine. */
void node_load_close(struct node_load *load);
/* From now on it says that it takes nothing new. */
void node_load_drain(struct node_load *load);
/* What to say beside an answer (rpc/ctl_server.h). Any thread. */
bool node_load_report(struct node_load *load, struct orca_report *report);

#endif
