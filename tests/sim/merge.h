/*
 * tests/sim/merge.h: compaction: what merge.c (the agent's side, with the real
 * farmem/agent/compact_tx.c and compact_index.c) and merge_nodes.c (the nodes, and the messages to
 * them) share.
 */
#ifndef FM_TESTS_SIM_MERGE_H
#define FM_TESTS_SIM_MERGE_H

#include "farmem/agent/compact_tx.h"
#include "tests/sim/sim.h"

#define SIM_MESSAGES_MAX 128
#define SIM_MERGE_PAIRS 16u /* in one transaction */
#define SIM_NOBODY UINT32_MAX

/* A call on its way, at work, answered; or one that nobody waits for, and is done all the same. */
struct sim_message {
	bool used, taken, answered;
	uint32_t owner; /* entry of the catalog's merges, or SIM_NOBODY */
	uint32_t node;  /* process */
	uint64_t at_ns; /* it arrives; UINT64_MAX: never */
	uint64_t deadline_ns;
	struct compact_call call;
	uint64_t txid;
	struct fabric_capability capability;
	uint8_t position, k, m, targets_count;
	struct ctl_merge_target targets[CTL_MERGE_TARGETS];
	uint32_t count;
	struct ctl_merge_pair pairs[SIM_MERGE_PAIRS];
	struct ctl_merge_piece pieces[SIM_MERGE_PAIRS];
	uint32_t indexes[SIM_MERGE_PAIRS], crcs[SIM_MERGE_PAIRS];
	uint8_t bytes[SIM_MERGE_PAIRS][FM_PAGE_SIZE]; /* partials there, deltas back */
	/* the answer */
	int error;
	union {
		struct ctl_merge_sent sent;
		struct ctl_merge_prepared prepared;
		uint8_t outcomes[SIM_MERGE_PAIRS];
	};
};

extern struct sim_message sim_messages[SIM_MESSAGES_MAX];

/* A copy of it goes out: it may be lost, late, or arrive twice. False: no room. */
bool sim_message_post(const struct sim_message *message);

#endif
