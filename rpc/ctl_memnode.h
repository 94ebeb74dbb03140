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
	uint32_t leases, orphaned, calls_in_flight;
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
/* 0 or -EINVAL. */
int ctl_capability_from_message(const struct Farmem__V1__Capability *message,
	struct fabric_capability *capability) FM_MUST_USE;
/* Packs a message as a handler's answer. 0 or -ENOMEM. */
int ctl_reply_message(struct ctl_reply *reply, const struct ProtobufCMessage *message) FM_MUST_USE;

#endif
