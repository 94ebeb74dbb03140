/*
 * rpc/ctl_memnode.h: rpc/memnode.proto in C structs: requests packed, answers unpacked and checked.
 *
 * For clients of a node (agent, doctor, tests). The node's half is memnode/ctl_service.c, which
 * shares the conversion of capabilities and the bounds. Nothing here does I/O.
 */
#ifndef FM_RPC_CTL_MEMNODE_H
#define FM_RPC_CTL_MEMNODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_server.h"
#include "rpc/fabric.h"

#define CTL_MEMNODE "/farmem.v1.MemoryNode/"
#define CTL_METHOD_RESERVE CTL_MEMNODE "Reserve"
#define CTL_METHOD_RELEASE CTL_MEMNODE "Release"
#define CTL_METHOD_KEEPALIVE CTL_MEMNODE "Keepalive"
#define CTL_METHOD_FENCE CTL_MEMNODE "Fence"
#define CTL_METHOD_STATS CTL_MEMNODE "Stats"
#define CTL_METHOD_REBUILD CTL_MEMNODE "Rebuild"
#define CTL_METHOD_CHECKSUM CTL_MEMNODE "Checksum"
#define CTL_METHOD_MERGE_BEGIN CTL_MEMNODE "MergeBegin"
#define CTL_METHOD_MERGE_SEND CTL_MEMNODE "MergeSend"
#define CTL_METHOD_MERGE_PARTIAL CTL_MEMNODE "MergePartial"
#define CTL_METHOD_MERGE_PREPARE CTL_MEMNODE "MergePrepare"
#define CTL_METHOD_MERGE_END CTL_MEMNODE "MergeEnd"
#define CTL_METHOD_HEALTH "/grpc.health.v1.Health/Check"
#define CTL_SERVICE_NAME "farmem.v1.MemoryNode" /* in a health check */

#define CTL_LEASES_MAX 1024 /* capabilities in one Keepalive or Release */
#define CTL_CLIENT_BYTES 16
#define CTL_NAME_BYTES 64
#define CTL_PATH_BYTES 108

/* A packed request. Freed by ctl_packed_clear. */
struct ctl_packed {
	uint8_t *bytes;
	size_t length;
};

struct ctl_load {
	uint64_t memory_bytes, leased_bytes, free_bytes;
	uint32_t leases, orphaned, calls_in_flight, rebuilds, merges;
	uint64_t merge_sent_bytes;
	bool draining;
};

#define CTL_SOURCES_MAX 16
#define CTL_REBUILD_MAX 4096 /* spansets in one Rebuild */
/* A node answers a Rebuild within so long, the time that its rate needs apart, whatever its sources
 * do: what was not done by then is UNREACHABLE. */
#define CTL_REBUILD_NS (15 * NS_PER_S)
#define CTL_CHECKSUM_MAX 16384 /* slots in one Checksum */

#define CTL_PIECE_MIN 256u /* a page split in 16 */

/* A slot and the CRC32C of its bytes. */
struct ctl_piece {
	uint32_t slot, crc;
};

struct ctl_source {
	char endpoint[FABRIC_ENDPOINT_MAX];
	struct fabric_capability capability;
	uint8_t position;
};

struct ctl_rebuild {
	struct fabric_capability target;
	uint8_t position, k, m;
	uint8_t sources_count; /* k: decode; 1, of the same position: copy */
	struct ctl_source sources[CTL_SOURCES_MAX];
	uint32_t count; /* spansets, 1..CTL_REBUILD_MAX */
	/* count times: target's piece, then one for each source; stride 1 + sources_count */
	const struct ctl_piece *pieces;
	uint64_t rate_bytes_per_s;
	uint32_t piece_bytes; /* of a slot: CTL_PIECE_MIN..FM_PAGE_SIZE; 0: FM_PAGE_SIZE */
};

enum ctl_rebuild_outcome {
	CTL_REBUILD_DONE = 0,
	CTL_REBUILD_UNREACHABLE,
	CTL_REBUILD_REFUSED,
	CTL_REBUILD_WRONG,
	CTL_REBUILD_BAD_SOURCE = 16, /* + index of the source whose bytes fail their CRC */
};

struct ctl_rebuilt {
	uint8_t outcomes[CTL_REBUILD_MAX];
	/* 0 or -errno: -ECONNRESET, -ETIMEDOUT, -EACCES, -ERANGE, -EPROTO, -EINVAL */
	int source_status[CTL_SOURCES_MAX];
	uint64_t read_ns, decode_ns, store_ns;
};

struct ctl_keepalive {
	uint64_t incarnation;
	struct ctl_load load;
	unsigned count;
	bool lost[CTL_LEASES_MAX]; /* for each capability asked about */
};

struct ctl_stats {
	char name[CTL_NAME_BYTES];
	char host[CTL_NAME_BYTES];
	char version[CTL_NAME_BYTES];
	char data_path[CTL_PATH_BYTES];
	char data_verbs[CTL_NAME_BYTES];
	uint32_t queue_pairs_count, rdma_regions_count;
	uint16_t data_port;
	bool huge_pages;
	uint64_t incarnation;
	uint64_t uptime_ns;
	struct ctl_load load;
};

/* Requests: 0 or -ENOMEM. */
int ctl_pack_reserve(const uint8_t client[CTL_CLIENT_BYTES], uint64_t bytes,
	struct ctl_packed *packed) FM_MUST_USE;
/* method: CTL_METHOD_KEEPALIVE or CTL_METHOD_RELEASE; count at most CTL_LEASES_MAX. */
int ctl_pack_leases(const char *method, const struct fabric_capability *capabilities,
	unsigned count, struct ctl_packed *packed) FM_MUST_USE;
int ctl_pack_fence(
	const struct fabric_capability *capability, struct ctl_packed *packed) FM_MUST_USE;
void ctl_packed_clear(struct ctl_packed *packed);

/* Answers: the result's own error, or -EPROTO when the answer is not what the contract says. */
int ctl_unpack_reserve(
	const struct ctl_result *result, struct fabric_capability *capability) FM_MUST_USE;
int ctl_unpack_fence(
	const struct ctl_result *result, struct fabric_capability *capability) FM_MUST_USE;
/* asked: how many capabilities the request held. */
int ctl_unpack_keepalive(const struct ctl_result *result, unsigned asked,
	struct ctl_keepalive *keepalive) FM_MUST_USE;
int ctl_unpack_stats(const struct ctl_result *result, struct ctl_stats *stats) FM_MUST_USE;

/*
 * Of the errors of Rebuild and Checksum, -ENOMEM (busy with others, or no memory), -EACCES and
 * -EINVAL say that nothing was and nothing will be done; after any other one a call may still be
 * at work: only a Fence of the target ends it for certain.
 */
int ctl_pack_rebuild(const struct ctl_rebuild *rebuild, struct ctl_packed *packed) FM_MUST_USE;
int ctl_unpack_rebuild(const struct ctl_result *result, const struct ctl_rebuild *asked,
	struct ctl_rebuilt *rebuilt) FM_MUST_USE;
int ctl_pack_checksum(const struct fabric_capability *capability, const uint32_t *slots,
	unsigned count, struct ctl_packed *packed) FM_MUST_USE;
int ctl_unpack_checksum(
	const struct ctl_result *result, unsigned asked, uint32_t *crcs) FM_MUST_USE;

/* Blocking: asks for Stats. 0 or -errno, with one line about it in text (CTL_TEXT_BYTES, may be
 * NULL). */
int ctl_ask_stats(struct ctl_client *client, uint64_t timeout_ns, struct ctl_stats *stats,
	char *text) FM_MUST_USE;

/* Shared by both halves. */
struct Farmem__V1__Capability;
struct ProtobufCMessage;
/* The message's key points into *capability, which must outlive it. */
void ctl_capability_to_message(
	const struct fabric_capability *capability, struct Farmem__V1__Capability *message);
/* enum SourceStatus of a -errno, and the other way. */
uint32_t ctl_source_status(int error);
int ctl_source_error(uint32_t status);
/* 0 or -EINVAL. */
int ctl_capability_from_message(const struct Farmem__V1__Capability *message,
	struct fabric_capability *capability) FM_MUST_USE;
/* Packs a message as a request. 0 or -ENOMEM. */
int ctl_pack_message(const struct ProtobufCMessage *message, struct ctl_packed *packed) FM_MUST_USE;
/* The wire's form of `count` numbers: little-endian u32. malloc'ed; NULL: no memory. */
uint8_t *ctl_pack_numbers(const uint32_t *numbers, size_t count) FM_MUST_USE;
/* Packs a message as a handler's answer. 0 or -ENOMEM. */
int ctl_reply_message(struct ctl_reply *reply, const struct ProtobufCMessage *message) FM_MUST_USE;

#endif
