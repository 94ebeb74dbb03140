/*
 * farmem/agent/compact_tx.h: one transaction of compaction, seen by its coordinator (DESIGN section
 * 7, Compaction; the phases are in farmem/catalog.h, the messages in rpc/memnode.proto).
 *
 * For agent_compact.c (gRPC to real nodes), tests/sim (simulated ones) and compact_tx_test.c. No
 * I/O, no clock, no allocation here: calls go out through an ops table, time is handed in. One
 * caller at a time per catalog.
 *
 * Invariants
 *   T1  A txid is in the catalog, and its phase PREPARING, before any node hears of it. It is used
 *       by one transaction only.
 *   T2  COMMITTED is stored only after every parity node stored and answered the pieces of every
 *       pair that is `good`, and has then acknowledged the transaction's end: from there on nothing
 *       may store into any fresh slot, of good pairs or others.
 *   T3  ABORTED is stored only after every parity node has acknowledged the end, or the column's
 *       lease or its node's incarnation is gone.
 *   T4  Of the catalog slots and CRCs are used, copied once and checked; where nodes are, and with
 *       which capabilities, the caller says (column.h, C6).
 *   T5  Each call that was begun ends in exactly one compact_tx_answered; the caller frees a
 *       transaction when it is over and has no call left.
 */
#ifndef FM_FARMEM_AGENT_COMPACT_TX_H
#define FM_FARMEM_AGENT_COMPACT_TX_H

#include "base/clock.h"
#include "farmem/agent/column.h"
#include "rpc/ctl_merge.h"

#define COMPACT_TRIES_MAX 3u                    /* of a call, until the transaction is given up */
#define COMPACT_TX_NS (30 * NS_PER_S)           /* from PREPARING to the commit point at most */
#define COMPACT_RETRY_FIRST_NS (20 * NS_PER_MS) /* doubles */
#define COMPACT_RETRY_MAX_NS NS_PER_S
#define COMPACT_LOCAL_FLIGHTS 2u /* local mode: parts whose deltas are on their way at once */
#define COMPACT_PARTS_MAX (CATALOG_MERGE_PAIRS / CTL_MERGE_PARTIALS) /* of a data position */
#define COMPACT_TASKS_MAX (EC_K_MAX * COMPACT_PARTS_MAX)

enum compact_method {
	COMPACT_BEGIN,
	COMPACT_SEND,
	COMPACT_PARTIAL,
	COMPACT_PREPARE,
	COMPACT_END,
};

/* Names a call in its answer. */
struct compact_call {
	enum compact_method method;
	uint8_t position; /* whose node is asked */
	uint8_t source;   /* PARTIAL: position whose pieces these are */
	uint8_t part;     /* SEND, PARTIAL: which of the position's portions of pieces */
	uint32_t round;   /* of the transaction's steps: answers to an earlier one change nothing */
};

/* What is to be sent: the member that the method says; all of it is copied by the op. */
struct compact_message {
	union {
		struct ctl_merge_begin begin;
		struct ctl_merge_send send;
		struct ctl_merge_partial partial;
		struct {
			uint64_t txid;
			struct fabric_capability target;
			bool commit;
		} end; /* PREPARE, END */
	};
};

struct compact_place {
	uint32_t node; /* index into the catalog's nodes */
	struct fabric_capability capability;
};

struct compact_tx;

struct compact_ops {
	/* Where a column is. 0; -ENOENT: it is lost, its node's incarnation has ended. */
	int (*place)(void *context, uint32_t group, uint32_t position, struct compact_place *place);
	/* A column's control plane, for the nodes that send to it. 0 or -errno. */
	int (*address)(void *context, uint32_t group, uint32_t position,
		char address[FABRIC_ENDPOINT_MAX]);
	/* Begins a call; compact_tx_answered follows, not from within. 0, or -errno: not begun. */
	int (*call)(void *context, struct compact_tx *tx, const struct compact_call *call,
		const struct compact_message *message);
	/* Tests kill the agent there: "begun", "sent", ... May not return. May be NULL. */
	void (*step)(void *context, const char *name);
};

enum compact_step {
	COMPACT_WAITING, /* for the runtime to claim */
	COMPACT_BEGINNING,
	COMPACT_SENDING,
	COMPACT_PREPARING,
	COMPACT_ENDING, /* the nodes are told the end that will be the commit */
	COMPACT_ABORTING,
	COMPACT_OVER,
};

struct compact_task {
	enum { TASK_READY, TASK_RUNNING, TASK_DONE } state;
	uint8_t position, part;
	uint8_t tries, partials; /* local mode: partials on their way */
	bool failed;             /* local mode: one of them was not taken */
	int error;
	uint64_t sent; /* local mode: which pieces of the part were sent on */
	uint64_t not_before_ns;
};

struct compact_tx {
	struct catalog *catalog; /* NULL: gone */
	struct catalog_merge *merge;
	const struct compact_ops *ops;
	void *context;
	enum compact_step step;
	bool local;
	bool committed;     /* how it was over */
	bool healing;       /* spansets are to be written anew: the runtime is to be told */
	const char *reason; /* why it was given up */
	int error;
	uint32_t group, round;
	uint8_t k, m;
	unsigned calls; /* running */
	uint64_t txid, began_ns, sent_bytes;
	struct compact_place places[EC_N_MAX];
	struct ec_code code;
	unsigned tasks_count;
	struct compact_task tasks[COMPACT_TASKS_MAX];
	/* the pairs that the runtime could have; index: as nodes number them */
	uint32_t count, good_count;
	uint32_t pair[CATALOG_MERGE_PAIRS]; /* index into merge->pairs */
	uint32_t take[CATALOG_MERGE_PAIRS];
	uint32_t fresh[CATALOG_MERGE_PAIRS][EC_M_MAX];
	uint32_t crc[CATALOG_MERGE_PAIRS][EC_M_MAX];
	bool bad[CATALOG_MERGE_PAIRS]; /* given up */
	struct column_entry a[CATALOG_MERGE_PAIRS], b[CATALOG_MERGE_PAIRS];
};

struct compact_options {
	struct catalog *catalog;
	uint32_t merge; /* index into catalog->merges */
	const struct compact_ops *ops;
	void *context;
	bool local;
};

/*
 * Asks the runtime for these pairs: FREE -> WANTED. Of a pair the spanset with more live positions
 * should be `a`: what comes from b costs. 0, -EBUSY: not FREE; -EINVAL: too many or none.
 */
int compact_tx_want(struct catalog *catalog, uint32_t merge, uint32_t group,
	const uint32_t (*pairs)[2], uint32_t count, uint64_t now_ns) FM_MUST_USE;
/*
 * A coordinator for an entry that is not FREE: one just wanted, or one that an earlier agent left:
 * WANTED and CLAIMED go on, PREPARING and ABORTING are aborted. 0; -ENOENT: the runtime will end it
 * by itself, or it is FREE; -EPROTO: it names no group (nothing is done to it).
 */
int compact_tx_open(struct compact_tx *tx, const struct compact_options *options) FM_MUST_USE;
/* One step, and as many as follow at once. When it is worth calling again without an answer:
 * *again_ns (UINT64_MAX: never). */
void compact_tx_advance(struct compact_tx *tx, uint64_t now_ns, uint64_t *again_ns);
/*
 * error: 0 or -errno, of the call or of unpacking its answer. answer, when 0: struct ctl_merge_sent
 * (SEND), uint8_t outcomes[] (PARTIAL), struct ctl_merge_prepared (PREPARE). To be followed by
 * compact_tx_advance.
 */
void compact_tx_answered(struct compact_tx *tx, const struct compact_call *call, int error,
	const void *answer, uint64_t now_ns);
/* Given up, unless it is committed or being aborted. What is not claimed yet is so once it is: an
 * entry that is WANTED is the runtime's to move. */
void compact_tx_abort(struct compact_tx *tx, const char *reason, uint64_t now_ns);
/* A node's incarnation has ended. */
void compact_tx_node_down(struct compact_tx *tx, uint32_t node, uint64_t now_ns);
/* The catalog is gone, and the leases with it. */
void compact_tx_forget(struct compact_tx *tx);

static inline bool compact_tx_is_over(const struct compact_tx *tx)
{
	return tx->step == COMPACT_OVER && tx->calls == 0;
}

#endif
