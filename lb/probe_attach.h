/*
 * lb/probe_attach.h: puts a loaded program onto a network interface, and takes it off again.
 *
 * Called by lb/probe_kernel.c. Four hooks; where the kernel offers links (all but PROBE_HOOK_TC
 * do), it takes the program off itself when this process ends, however it ends.
 */
#ifndef FM_LB_PROBE_ATTACH_H
#define FM_LB_PROBE_ATTACH_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "lb/probe_maps.h"

enum probe_hook {
	PROBE_HOOK_TCX, /* tc ingress by a link: Linux 6.6 and newer */
	PROBE_HOOK_TC,  /* a filter of the clsact qdisc: stays when this process is killed */
	PROBE_HOOK_XDP,
	PROBE_HOOK_XDP_GENERIC,
};
const char *probe_hook_name(enum probe_hook hook);

struct probe_interface {
	char name[IF_NAMESIZE];
	unsigned index;
	uint64_t mac; /* as it lies in a frame, in the lower 6 bytes */
};

/*
 * names: "eth0,lo"; NULL: all Ethernets and loopbacks that are up. 0; -EINVAL after a line was
 * logged: no such interface, too many, or (named ones) no Ethernet; -errno.
 */
int probe_interfaces(const char *names, struct probe_interface list[PROBE_INTERFACES_MAX],
	unsigned *count) FM_MUST_USE;

/* Whom the program answers for: where its filter stands follows from this. */
struct probe_place {
	uint16_t port;
	bool bound;          /* to this address; else to all */
	uint8_t address[16]; /* IPv4 as in struct probe_prefix */
};

struct probe_attachment {
	enum probe_hook hook;
	unsigned interface_index;
	struct probe_place place;
	int link_fd;         /* -1: PROBE_HOOK_TC */
	uint32_t program_id; /* PROBE_HOOK_TC: to take off nobody else's */
};

/* 0 or -errno. PROBE_HOOK_TC replaces what a predecessor at this place left behind; PROBE_HOOK_TCX
 * takes it off. */
int probe_attach(struct probe_attachment *attachment, int program_fd,
	const struct probe_interface *interface, const struct probe_place *place) FM_MUST_USE;
void probe_detach(struct probe_attachment *attachment);

#endif
