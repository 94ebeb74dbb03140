/*
 * base/config.h: the runtime's options: what `farmem run` takes as flags, the preload takes as
 * FARMEM_* variables, and both take from the file named by FARMEM_CONFIG (default: none). One
 * table: config.c.
 */
#ifndef FM_BASE_CONFIG_H
#define FM_BASE_CONFIG_H

#include "base/options.h"

enum config_on_full { ON_FULL_WAIT, ON_FULL_LOCAL, ON_FULL_KILL };
enum config_evict { EVICT_AUTO, EVICT_MOVE, EVICT_WP };
/*
 * What is kept of a span and where (DESIGN section 8). `code` says k and m; config_code what of it
 * applies: none keeps k = 1 and m = 0, replicate k = 1.
 */
enum config_scheme {
	SCHEME_BATCH_REMOTE = 0, /* spansets of whole pages; memory nodes compact */
	SCHEME_BATCH_LOCAL,      /* the same; the agent compacts */
	SCHEME_NONE,             /* one copy */
	SCHEME_REPLICATE,        /* 1 + m copies */
	SCHEME_SPLIT,            /* each page in k pieces and m parities of them: k reads a page */
	SCHEME_2PC,              /* in place, parities updated by RPC */
	SCHEME_COUNT,
};
enum config_compact {
	COMPACT_AUTO = 0, /* as the scheme says; by the agent while the nodes are busy */
	COMPACT_OFF,
	COMPACT_LOCAL,  /* the agent fetches deltas, multiplies, and sends partial parities */
	COMPACT_REMOTE, /* memory nodes send them to each other */
};
enum config_transport { TRANSPORT_AUTO, TRANSPORT_SHM, TRANSPORT_TCP, TRANSPORT_VERBS };

struct fm_config {
	struct option_share local;  /* near budget; default 25% */
	struct option_code code;    /* default 4+2 */
	uint32_t scheme;            /* enum config_scheme */
	char nodes[2048];           /* "h1:7400,h2:7400"; empty: embedded */
	uint32_t transport;         /* --fabric; auto: shm for embedded nodes, else tcp */
	uint64_t embedded_count;    /* embedded nodes; 0: k+m+1 */
	uint64_t node_memory_bytes; /* each embedded node's limit; 0: as much as the machine */
	uint64_t region_bytes;      /* size of a region; default 64M, at most 4G */
	uint64_t far_bytes;         /* most far memory (data bytes) to use; 0: no limit */
	struct option_share retain; /* far duplicates of near pages; default 100% of local */
	uint32_t on_full;
	uint32_t evict;
	uint64_t range_bytes;          /* address space for far-capable memory; default 256G */
	bool mmap;                     /* the program's own mappings go far too */
	uint64_t mmap_threshold_bytes; /* smaller ones do not; default 256K */
	uint64_t handlers;             /* fault handler threads per stripe; 0: automatic */
	uint64_t stripes;              /* userfaultfds; 0: automatic */
	uint64_t spin_ns;              /* how long a handler spins before it sleeps; default 20us */
	uint64_t read_ahead;           /* most neighbours fetched with a span; 0: none; default 8 */
	uint64_t fetch_deadline_ns;    /* default 200ms; then the read goes degraded */
	uint64_t store_deadline_ns;    /* default 2s */
	uint64_t scrub_period_ns;      /* everything is read once in it; 0: never; default 24h */
	uint32_t compact;              /* enum config_compact */
	/* run-time directory; empty: /run/farmem, $XDG_RUNTIME_DIR/farmem or /tmp/farmem-UID */
	char dir[256];
	char log[256];         /* log file; empty: stderr */
	uint32_t log_level;    /* enum log_level; default warn */
	char profile[256];     /* file that samples of faults go to; empty: none are taken */
	uint64_t profile_rate; /* samples a second; default 500 */
};

#define CONFIG_NODES_MAX 256 /* in the list; == CATALOG_NODES_MAX */
#define CONFIG_REGION_BYTES_MIN (1ull << 20)
#define CONFIG_REGION_BYTES_MAX (4ull << 30)
#define CONFIG_SPLIT_REGION_BYTES_MAX (4ull << 30) /* over k: 2^20 slots */
#define CONFIG_RANGE_BYTES_MIN (64ull << 20)
#define CONFIG_LOCAL_BYTES_MIN (1ull << 20)

extern const struct option_spec config_specs[];
extern const unsigned config_specs_count;
/* Variables that are ours but no options: FARMEM_FAULTS, FARMEM_TREE, FARMEM_CONFIG, FARMEM_BIN. */
extern const char *const config_other_variables[];

/* Defaults, then the file, then the environment. 0 or -EINVAL. */
int config_load(struct fm_config *config, struct option_error *error) FM_MUST_USE;
/* What the table's types cannot say: near budget against the machine's memory, k+m against the node
 * list, region size a power of two, duplicate nodes. 0 or -EINVAL. */
int config_check(const struct fm_config *config, struct option_error *error) FM_MUST_USE;

/* The code of a spanset under the scheme: what groups are to have. */
struct option_code config_code(const struct fm_config *config);
/* Makes k smaller until the scheme can do with it. */
void config_fit_code(uint32_t scheme, struct option_code *code);
/* "batch-remote"; "?" beyond the last. */
const char *config_scheme_name(uint32_t scheme);

/* One entry of a node list. */
struct config_node {
	char host[256]; /* without the brackets of "[::1]:7400" */
	uint16_t port;  /* 1..65535 */
	char name[280]; /* as written */
};

/* Reads the entry at *list and moves *list behind it. 1 read, 0 end of the list, -EINVAL with the
 * error. */
int config_next_node(
	const char **list, struct config_node *node, struct option_error *error) FM_MUST_USE;

#endif
