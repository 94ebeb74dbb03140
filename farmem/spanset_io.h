/*
 * farmem/spanset_io.h: what the files of spanset.h share: one runtime thread's spanset_io.
 *
 *   spanset.c            opening and closing, waiting for completions
 *   spanset_store.c      batches on their way out
 *   spanset_fetch.c      direct reads
 *   spanset_degraded.c   reading around what is missing
 *   spanset_hedge.c      reading around what is late or slow
 *   spanset_split.c      all reads under `--scheme split`
 */
#ifndef FM_FARMEM_SPANSET_IO_H
#define FM_FARMEM_SPANSET_IO_H

#include "farmem/hedge.h"
#include "farmem/lane.h"
#include "farmem/record.h"
#include "farmem/scheme.h"
#include "farmem/spanset.h"
#include "rpc/fabric.h"

/* Between attempts of a fetch that found too few sources. */
#define SPANSET_RETRY_NS (2 * NS_PER_MS)
/* Nodes neither answer nor are declared dead for so long: SIGBUS. */
#define SPANSET_GIVE_UP_NS (60 * NS_PER_S)
#define SPANSET_COMPLETIONS 64
#define SPANSET_PARITY_BYTES (SPANSET_BATCH_PAGES * EC_M_MAX * FM_PAGE_SIZE)
#define SPANSET_WORKSPACE_BYTES (EC_N_MAX * FM_PAGE_SIZE)
#define SPANSET_NO_FETCH 0xff

enum { TAG_DIRECT = 1, TAG_DEGRADED, TAG_STORE, TAG_SPLIT, TAG_PIECE };
#define TAG(kind, pos, index)                                                                      \
	(((uint64_t)(kind) << 56) | ((uint64_t)(pos) << 16) | (uint64_t)(index))
#define TAG_KIND(tag) ((unsigned)((tag) >> 56))
#define TAG_POS(tag) ((unsigned)((tag) >> 16) & 0xff)
#define TAG_INDEX(tag) ((unsigned)(tag)&0xffff)

/* One batch on its way out. */
struct spanset_store_job {
	struct group_id group;
	const struct catalog_group *g;
	const struct ec_code *code;
	struct spanset_item *items;
	unsigned count, sets;
	uint32_t slot_bytes;
	bool splits;   /* a set is a page */
	bool reserved; /* may use up a group's last slots */
	uint64_t deadline_ns;
	unsigned outstanding;
	int status[EC_N_MAX]; /* per column: 0 or the first failure */
	uint32_t slots[EC_N_MAX * SPANSET_BATCH_PAGES];
	struct ssid ssids[SPANSET_BATCH_PAGES];
};

struct spanset_io {
	struct core *core;
	struct spanset_io_options options;
	struct lane lane;
	struct epoch_thread thread; /* its `storing`; line NULL unless it stores */
	struct spanset_fetch fetches[SPANSET_FETCH_MAX];
	uint8_t next_in_read[SPANSET_FETCH_MAX]; /* fetches that share one read */
	uint8_t begun[SPANSET_FETCH_MAX], done[SPANSET_FETCH_MAX];
	unsigned begun_count, done_count, active_count, troubled_count;
	unsigned lingering_count, hedged_count;
	uint32_t workspaces_used;
	/* Of the columns that were asked to fill them. */
	uint32_t generations[SPANSET_DEGRADED_MAX][EC_N_MAX];
	/* Demand reads that may become late, one bit each, and when to look at them. */
	uint64_t hedge_armed, hedge_ns;
	struct hedge hedge;
	uint8_t *fetch_buffers, *workspaces, *parity, *zeros;
	struct spanset_split *split; /* of each fetch; NULL unless the scheme splits */
	uint8_t *pieces;             /* likewise */
	struct spanset_store_job job;
	uint64_t soft_deadline_ns;
	uint64_t stores, reads;
	struct group_id last_group;
};

/* ---- spanset_fetch.c ---- */
static inline uint32_t spanset_fetch_group(
	const struct spanset_io *io, const struct spanset_fetch *f)
{
	return record_hdr_group(record_load(record_at(io->core, f->ssid)));
}
static inline unsigned spanset_fetch_index(
	const struct spanset_io *io, const struct spanset_fetch *f)
{
	return (unsigned)(f - io->fetches);
}
static inline uint8_t *spanset_fetch_buffer(
	const struct spanset_io *io, const struct spanset_fetch *f)
{
	return io->fetch_buffers + (size_t)spanset_fetch_index(io, f) * FM_PAGE_SIZE;
}
static inline uint8_t *spanset_workspace(
	const struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	return io->workspaces + (size_t)f->workspace * SPANSET_WORKSPACE_BYTES +
	       (size_t)pos * FM_PAGE_SIZE;
}
/* spanset_fetch_wake looks after these. */
static inline bool spanset_in_trouble(enum fetch_phase phase)
{
	return phase == FETCH_WAITING || phase == FETCH_DEGRADED;
}
static inline void spanset_set_phase(
	struct spanset_io *io, struct spanset_fetch *f, enum fetch_phase phase)
{
	io->troubled_count -= spanset_in_trouble(f->phase);
	io->troubled_count += spanset_in_trouble(phase);
	f->phase = phase;
}
/* A position of the fetch's spanset, for the lane. */
static inline struct lane_doubt spanset_fetch_at(
	const struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	uint32_t group = spanset_fetch_group(io, f);
	return (struct lane_doubt){group, pos, record_slot(record_at(io->core, f->ssid), pos),
		lane_generation(io->core, group, pos)};
}
void spanset_fetch_finish(struct spanset_io *io, struct spanset_fetch *f, int status);
/* The direct way failed, or a workspace is missing: try (again) soon. */
void spanset_fetch_wait(struct spanset_io *io, struct spanset_fetch *f, uint64_t retry_ns);
/* Its CRC is right; else it is counted and said. node: whose bytes they are. */
bool spanset_piece_good(struct spanset_io *io, const struct spanset_fetch *f, unsigned pos,
	const uint8_t *bytes, uint32_t node);
/* The same of a piece of any length, and what is decoded. */
bool spanset_bytes_good(struct spanset_io *io, const struct spanset_fetch *f, unsigned pos,
	const struct iovec *bytes, uint32_t node);
void spanset_direct_done(struct spanset_io *io, struct spanset_fetch *f, int status);
/* Posts one read for these fetches, neighbours in a column; what does not go out is in trouble. */
void spanset_post_direct(struct spanset_io *io, const uint8_t *indexes, unsigned count);
/* An answer nobody waits for any more has come: the fetch may be free now. */
void spanset_fetch_settle(struct spanset_io *io, struct spanset_fetch *f);

/* ---- spanset_degraded.c ---- */
/* Takes a workspace, or waits for one, and reads from k other positions. */
void spanset_degraded_begin(struct spanset_io *io, struct spanset_fetch *f);
/* The same beside the direct read (FETCH_HEDGED), now or not at all. False: not at all. */
bool spanset_degraded_beside(struct spanset_io *io, struct spanset_fetch *f);
/* Gives the workspace back unless the fabric or the caller still needs it. */
void spanset_workspace_release(struct spanset_io *io, struct spanset_fetch *f);
void spanset_degraded_done(
	struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status);
/* Takes waiting fetches up again whose time has come; returns when the next one's will. */
uint64_t spanset_fetch_wake(struct spanset_io *io);

/* ---- spanset_hedge.c ---- */
/* The direct read was posted: it may become late. A probe gets its hedge at once. */
void spanset_hedge_arm(struct spanset_io *io, struct spanset_fetch *f);
/* Reads that are late now get a hedge. */
void spanset_hedge_late(struct spanset_io *io, uint64_t now_ns);
/*
 * Reads from a slow node, neighbours in a column: sent around it. Returns how many of them, from
 * the first on, are to be read directly all the same: none; one, as a probe; or all: no way around.
 */
unsigned spanset_hedge_around(
	struct spanset_io *io, const uint8_t *indexes, unsigned count, uint32_t node);
/* The direct read is over, well or not, or could not be posted. */
void spanset_hedge_done(struct spanset_io *io, struct spanset_fetch *f, int status);
/* The hedge has its bytes, and the direct read has not come. */
void spanset_hedge_won(struct spanset_io *io, struct spanset_fetch *f);
/* It is not looked at any more. */
void spanset_hedge_disarm(struct spanset_io *io, const struct spanset_fetch *f);

/* ---- spanset_split.c: io->split != NULL ---- */
/* 0 or -ENOMEM; nothing to do under other schemes. */
int spanset_split_open(struct spanset_io *io) FM_MUST_USE;
void spanset_split_close(struct spanset_io *io);
/* True when `b` lies right behind `a` in every column. */
bool spanset_split_adjacent(
	struct spanset_io *io, const struct spanset_fetch *a, const struct spanset_fetch *b);
/* Posts k reads for these fetches, neighbours; what does not go out is in trouble. */
void spanset_split_post(struct spanset_io *io, const uint8_t *indexes, unsigned count);
void spanset_split_done(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status);
/* It has waited: on with it. */
void spanset_split_again(struct spanset_io *io, struct spanset_fetch *f);
/* The first of the reads that are still out. */
struct hedge_read spanset_split_late(const struct spanset_io *io, const struct spanset_fetch *f);
/* Asks for as many others as are still out. False: there are none. */
bool spanset_split_hurry(struct spanset_io *io, struct spanset_fetch *f);
/* A probe has come, or has failed. */
void spanset_split_probed(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, bool came);

#endif
