/*
 * lb/probe_filter.h: who may ask: the prefixes of an allow list, IPv4 and IPv6 alike.
 *
 * The kernel's twin of probe_filter_allows is the trie probe_allowed in lb/probe.bpf.c.
 */
#ifndef FM_LB_PROBE_FILTER_H
#define FM_LB_PROBE_FILTER_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/compiler.h"
#include "lb/probe_maps.h"

struct probe_filter {
	unsigned prefixes_count; /* 0: everybody may ask */
	struct probe_prefix prefixes[PROBE_PREFIXES_MAX];
};

/* "10.0.0.0/8,fd00::/8,192.168.1.7"; NULL: everybody. 0, or -EINVAL after a line was logged. */
int probe_filter_parse(const char *text, struct probe_filter *filter) FM_MUST_USE;
/* An address as it lies in a prefix: "10.0.0.1", "fd00::1". 0 or -EINVAL. */
int probe_address_parse(const char *text, uint8_t address[16]) FM_MUST_USE;
/* IPv4 in IPv6 (::ffff:a.b.c.d) counts as IPv4. False for any other family. */
bool probe_filter_allows(const struct probe_filter *filter, const struct sockaddr *from);

#endif
