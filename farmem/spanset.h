/*
 * farmem/spanset.h: storing and fetching spansets: the joint between ec/ and rpc/fabric (DESIGN
 * section 7).
 *
 * A struct spanset_io belongs to one runtime thread: its fabric queue, its connections, its
 * buffers.
 *
 * Store: a batch of pages becomes ceil(count/k) spansets of one group, column-major: neighbours in
 * the batch become neighbours in one column, so that a batch is one write per column and read-ahead
 * is one read. All k+m writes of every spanset are acknowledged before spanset_store returns 0
 * (invariant 1). A write that fails or is late sends the whole batch to another group; doubtful
 * slots go to quarantine until a fence (invariant 3).
 *
 * Fetch: one one-sided read, CRC; anything wrong with it turns into a degraded read: any k other
 * positions, each checked, one span decoded (invariant 4). A fetch in flight is pinned by its
 * reference's live bit (record.h R2).
 *
 * Hedge (farmem/hedge.h): a demand read that is late gets a degraded read beside it, and whichever
 * is right first wins; a read from a slow node is a degraded one from the start, while k other
 * nodes are well. What has lost goes on: its buffers are the fabric's, so the fetch LINGERS after
 * spanset_fetch_end until its last answer has come, which nobody looks at. (Its record may be gone
 * by then, and the slot it reads be rewritten: only the local buffers matter.)
 */
#ifndef FM_FARMEM_SPANSET_H
#define FM_FARMEM_SPANSET_H

#include "farmem/core.h"

#define SPANSET_BATCH_PAGES 64
#define SPANSET_FETCH_MAX 64    /* fetches in flight per thread */
#define SPANSET_DEGRADED_MAX 32 /* of them decoding at a time; others wait */
#define SPANSET_HEDGED_MAX 16   /* of them hedged, until both ways are at their end */

struct spanset_item {
	uint32_t page;        /* becomes the owner of its position */
	const uint8_t *bytes; /* FM_PAGE_SIZE of them; nobody changes them during the call */
	struct ssid ssid;     /* out */
	uint32_t pos;         /* out */
};

enum fetch_phase {
	FETCH_FREE = 0,
	FETCH_DIRECT,
	FETCH_HEDGED,  /* direct, and degraded beside it */
	FETCH_WAITING, /* for a workspace, or for nodes to come back */
	FETCH_DEGRADED,
	FETCH_DONE,
	FETCH_LINGER, /* ended, and something is still on its way */
};

struct spanset_fetch {
	enum fetch_phase phase;
	uint32_t page;
	struct ssid ssid;
	uint32_t pos;
	uint64_t user; /* the caller's */
	bool demand;   /* the caller's: somebody waits for this page, so it may be hedged */
	uint64_t begun_ns, degraded_ns, retry_ns, hedge_ns;
	int status; /* when done: 0, or -EIO: beyond m losses */
	/* Something was missing; a hedge was started; it went around a slow node. */
	bool was_degraded, was_hedged, was_slow;
	uint8_t *bytes; /* FM_PAGE_SIZE, valid until spanset_fetch_end */
	/* of the direct read: who was asked, for which column, with how many others */
	bool direct_out; /* its buffer belongs to the fabric */
	bool probe;
	uint8_t direct_pages;
	uint32_t group, node, generation;
	/* degraded read */
	uint16_t nodes[EC_N_MAX];
	uint32_t posted, good, bad; /* bit masks over positions */
	uint32_t pending_count;
	int8_t workspace;
	bool doomed; /* found beyond recall once */
};

struct lane;
struct spanset_io;

struct spanset_io_options {
	const char *name;
	uint64_t spin_ns;
	uint64_t fetch_deadline_ns, store_deadline_ns;
	bool stores; /* needs parity buffers */
	bool hedges; /* may read around slow nodes and hedge demand reads */
};

int spanset_io_open(struct core *core, const struct spanset_io_options *options,
	struct spanset_io **io) FM_MUST_USE;
void spanset_io_close(struct spanset_io *io);

/*
 * count 1..SPANSET_BATCH_PAGES. 0: every item has its place, records are STABLE with all positions
 * live, nothing names them yet: the caller publishes words or clears live bits. -ENOSPC: no group
 * has room now (more were asked for); -EIO: every group tried failed; -ENOMEM: record table full.
 * On an error nothing stays behind.
 */
int spanset_store(struct spanset_io *io, struct spanset_item *items, unsigned count) FM_MUST_USE;
/* The same, down to the last slots of a group, which spanset_store leaves: for repack, which frees
 * more than it takes. */
int spanset_store_reserved(
	struct spanset_io *io, struct spanset_item *items, unsigned count) FM_MUST_USE;
/* The group the last store went to (tests, repack). */
struct group_id spanset_last_group(const struct spanset_io *io);
/* Between batches: fences broken regions whose node is up again and frees the quarantine behind
 * them. */
void spanset_io_maintain(struct spanset_io *io);
/* Its way to the nodes, with its quarantine (tests: no slot leaks). */
const struct lane *spanset_lane(const struct spanset_io *io);

/* A free fetch, or NULL when all are in use. Nothing is posted before spanset_fetch_submit. */
struct spanset_fetch *spanset_fetch_begin(
	struct spanset_io *io, uint32_t page, struct ssid ssid, uint32_t pos);
/* Posts what was begun since the last call; neighbours in a column go as one read. */
void spanset_fetch_submit(struct spanset_io *io);
/* The next finished fetch, waiting until until_ns (0: not at all), or NULL. */
struct spanset_fetch *spanset_fetch_poll(struct spanset_io *io, uint64_t until_ns);
/* Sleeps until one may have finished, at most until until_ns; take it with spanset_fetch_poll.
 * False at once when nothing is on its way (all wait for nodes to come back). */
bool spanset_fetch_wait_any(struct spanset_io *io, uint64_t until_ns);
void spanset_fetch_end(struct spanset_io *io, struct spanset_fetch *fetch);
/* Begun and not ended. */
unsigned spanset_fetches(const struct spanset_io *io);
/* Ended, and not yet free: poll now and then. */
unsigned spanset_lingering(const struct spanset_io *io);
/* spanset_fetch_begin would find one. */
bool spanset_fetch_ready(const struct spanset_io *io);

#endif
