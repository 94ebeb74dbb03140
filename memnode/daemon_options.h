/*
 * memnode/daemon_options.h: what farmem-memnode can be told, and the checks a table cannot express.
 */
#ifndef FM_MEMNODE_DAEMON_OPTIONS_H
#define FM_MEMNODE_DAEMON_OPTIONS_H

#include "base/options.h"
#include "memnode/machine.h"

#define DAEMON_ADDRESS_BYTES 160
#define DAEMON_DIR_BYTES 96 /* a unix socket's path has 108, and data.sock goes below it */

enum daemon_huge_pages { HUGE_PAGES_AUTO, HUGE_PAGES_YES, HUGE_PAGES_NO };

struct daemon_options {
	char listen[DAEMON_ADDRESS_BYTES];      /* empty: no TCP control plane */
	char data_listen[DAEMON_ADDRESS_BYTES]; /* empty: none, once daemon_options_read is done */
	char verbs[DAEMON_ADDRESS_BYTES];       /* empty: no RDMA */
	char dir[DAEMON_DIR_BYTES];             /* empty: no unix sockets */
	char name[MACHINE_ID_BYTES];
	char host_id[MACHINE_ID_BYTES];
	struct option_share memory; /* as given */
	uint64_t memory_bytes;      /* what it comes to */
	uint64_t client_quota_bytes;
	uint64_t threads;
	uint32_t huge_pages;
	uint64_t orphan_keep_ns;
	uint64_t keepalive_ns;
	uint64_t spin_ns;
	uint64_t drain_grace_ns;
	uint64_t offload_nice;
	uint32_t probe; /* enum probe_mode */
	char probe_allow[512];
	uint64_t owner_fd; /* DAEMON_NO_FD: none */
	uint64_t ready_fd;
	char config[256];
	char log[256];
	uint32_t log_level;
};

#define DAEMON_NO_FD 0 /* nobody hands over stdin */

extern const struct option_spec daemon_specs[];
extern const unsigned daemon_specs_count;

/* Defaults, file, flags, then the checks and what follows from them (ports, memory, names).
 * 0 or -EINVAL. */
int daemon_options_read(struct daemon_options *options, int argc, char *const *argv,
	struct option_error *error) FM_MUST_USE;
/* Takes "host:port" or "[v6]:port" apart (host without brackets). 0 or -EINVAL. */
int daemon_address_split(
	const char *address, char host[DAEMON_ADDRESS_BYTES], uint16_t *port) FM_MUST_USE;

#endif
