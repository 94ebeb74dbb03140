/*
 * rpc/ctl_merge.h: the messages of compaction (MergeBegin .. MergeEnd of rpc/memnode.proto, which
 * has their meaning) in C structs: requests packed, answers unpacked and checked. Nothing here does
 * I/O. For the agent, and for nodes, which send partials to each other.
 */
#ifndef FM_RPC_CTL_MERGE_H
#define FM_RPC_CTL_MERGE_H

#include "rpc/ctl_memnode.h"

#define CTL_MERGE_PAIRS 256   /* in one transaction; == CATALOG_MERGE_PAIRS */
#define CTL_MERGE_PARTIALS 64 /* in one MergePartial; and pieces of a MergeSend in local mode */
#define CTL_MERGE_TARGETS 4   /* == EC_M_MAX */
#define CTL_MERGE_NS (8 * NS_PER_S) /* a node answers within so long */

enum ctl_merge_outcome {
	CTL_MERGE_DONE = 0,
	CTL_MERGE_UNREACHABLE,
	CTL_MERGE_BAD_A,
	CTL_MERGE_BAD_B,
	CTL_MERGE_MISSING,
	CTL_MERGE_CONTRADICTS,
	CTL_MERGE_REFUSED,
	CTL_MERGE_OUTCOMES, /* how many */
};

struct ctl_merge_pair {
	uint32_t old_slot, old_crc; /* of a's parity piece */
	uint32_t fresh_slot;
	uint32_t sources; /* data positions whose partials will come; not 0 */
};

struct ctl_merge_begin {
	uint64_t txid;
	struct fabric_capability target;
	uint8_t position, k, m;
	uint32_t count; /* 1..CTL_MERGE_PAIRS */
	const struct ctl_merge_pair *pairs;
};

struct ctl_merge_piece {
	uint32_t index; /* of the pair */
	uint32_t slot_a, crc_a, slot_b, crc_b;
};

struct ctl_merge_target {
	char address[FABRIC_ENDPOINT_MAX]; /* of the control plane */
	struct fabric_capability capability;
	uint8_t position;
};

struct ctl_merge_send {
	uint64_t txid;
	struct fabric_capability source;
	uint8_t position, k, m;
	uint8_t targets_count; /* 0: local mode */
	struct ctl_merge_target targets[CTL_MERGE_TARGETS];
	uint32_t count; /* 1..CTL_MERGE_PAIRS; local mode: CTL_MERGE_PARTIALS */
	const struct ctl_merge_piece *pieces;
};

struct ctl_merge_sent {
	uint8_t outcomes[CTL_MERGE_PAIRS];
	int target_status[CTL_MERGE_TARGETS]; /* 0 or -errno */
	uint64_t sent_bytes;
	/* local mode: count * 4096 bytes, zeros for a piece that is not DONE; points into the
	 * result, as long as that lives */
	const uint8_t *deltas;
};

struct ctl_merge_partial {
	uint64_t txid;
	struct fabric_capability target;
	uint8_t position;
	uint32_t count; /* 1..CTL_MERGE_PARTIALS */
	const uint32_t *indexes, *crcs;
	const uint8_t *bytes; /* count * 4096 */
};

struct ctl_merge_prepared {
	uint8_t outcomes[CTL_MERGE_PAIRS];
	uint32_t crcs[CTL_MERGE_PAIRS];
};

/* Requests: 0 or -ENOMEM. */
int ctl_pack_merge_begin(
	const struct ctl_merge_begin *begin, struct ctl_packed *packed) FM_MUST_USE;
int ctl_pack_merge_send(const struct ctl_merge_send *send, struct ctl_packed *packed) FM_MUST_USE;
int ctl_pack_merge_partial(
	const struct ctl_merge_partial *partial, struct ctl_packed *packed) FM_MUST_USE;
int ctl_pack_merge_prepare(uint64_t txid, const struct fabric_capability *target,
	struct ctl_packed *packed) FM_MUST_USE;
int ctl_pack_merge_end(uint64_t txid, const struct fabric_capability *target, bool commit,
	struct ctl_packed *packed) FM_MUST_USE;

/*
 * Answers: the result's own error, or -EPROTO when the answer is not what the contract says.
 * -ENOENT: the node does not know the transaction; -EPERM: it has ended there; -EACCES: the
 * capability; -ENOMEM: no room for another one; -EINVAL: malformed. MergeBegin and MergeEnd answer
 * nothing: their result's status is all.
 */
int ctl_unpack_merge_sent(const struct ctl_result *result, const struct ctl_merge_send *asked,
	struct ctl_merge_sent *sent) FM_MUST_USE;
/* outcomes: count of them, enum ctl_merge_outcome. */
int ctl_unpack_merge_partial(
	const struct ctl_result *result, uint32_t count, uint8_t *outcomes) FM_MUST_USE;
int ctl_unpack_merge_prepared(const struct ctl_result *result, uint32_t count,
	struct ctl_merge_prepared *prepared) FM_MUST_USE;

#endif
