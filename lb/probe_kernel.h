/*
 * lb/probe_kernel.h: the kernel's answerer of one server: lb/probe.bpf.c loaded, its slot mapped,
 * its program on interfaces.
 *
 * Called by lb/probe_server.c, and by tests that run the program without any interface.
 */
#ifndef FM_LB_PROBE_KERNEL_H
#define FM_LB_PROBE_KERNEL_H

#include "lb/probe.h"
#include "lb/probe_attach.h"
#include "lb/probe_filter.h"

struct probe_kernel_options {
	struct probe_place place;
	bool xdp; /* load the program for XDP; else that for tc */
	const struct probe_filter *filter;
};

struct probe_kernel;
/* 0 or -errno; *why, when not NULL, becomes what was refused. */
int probe_kernel_open(const struct probe_kernel_options *options, struct probe_kernel **kernel,
	const char **why) FM_MUST_USE;
/* Takes the program off all interfaces. NULL is fine. */
void probe_kernel_close(struct probe_kernel *kernel);
/* 0 or -errno: this interface goes without. */
int probe_kernel_attach(struct probe_kernel *kernel, const struct probe_interface *interface,
	enum probe_hook hook) FM_MUST_USE;
struct load_slot *probe_kernel_slot(struct probe_kernel *kernel);
int probe_kernel_program(const struct probe_kernel *kernel);
/* Adds the kernel's counters to *stats. */
void probe_kernel_stats(const struct probe_kernel *kernel, struct probe_server_stats *stats);

#endif
