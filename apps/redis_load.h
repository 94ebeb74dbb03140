/*
 * apps/redis_load.h: the parts of farmem-redis-load: values whose every byte is checkable, a RESP
 * connection, and the samples of a run.
 *
 * Values. value(seed, key, version) is a pseudo-random stream, different in every 8-byte word from
 * that of any other key or version: a zeroed, stale, shifted or foreign page cannot pass. Its first
 * 16 bytes carry key and version, so that a wrong value can be told stale, foreign, zero or
 * garbled.
 *
 * Order. Key i belongs to connection i mod C. A connection's commands are served in order, so the
 * version a GET must return is known exactly when it is sent, pipelining included.
 */
#ifndef FM_APPS_REDIS_LOAD_H
#define FM_APPS_REDIS_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/hist.h"
#include "base/options.h"

#define VALUE_BYTES_MIN 16
#define VALUE_BYTES_MAX (1u << 20)
#define CONNECTIONS_MAX 256
#define PIPELINE_MAX 256
#define COMMAND_OVERHEAD 128 /* RESP around key and value of one SET */

/* --- values (redis_value.c) --- */

enum value_verdict {
	VALUE_RIGHT,
	VALUE_STALE,   /* this key, whole, but another version */
	VALUE_FOREIGN, /* whole, but another key's */
	VALUE_ZERO,    /* some aligned 8 bytes are zero that must not be */
	VALUE_GARBLED, /* anything else */
	VALUE_SHORT,   /* wrong length */
	VALUE_MISSING, /* the server has no such key */
	VALUE_VERDICTS
};

const char *value_verdict_name(enum value_verdict verdict);
/* Writes `length` bytes. */
void value_fill(uint8_t *bytes, size_t length, uint64_t seed, uint64_t key, uint32_t version);
enum value_verdict value_check(
	const uint8_t *bytes, size_t length, uint64_t seed, uint64_t key, uint32_t version);

/* --- replies (redis_reply.c) --- */

enum reply_kind {
	REPLY_PARTIAL, /* more bytes are needed */
	REPLY_STATUS,  /* +OK */
	REPLY_ERROR,   /* -ERR ...: text, length */
	REPLY_NIL,     /* $-1 */
	REPLY_BULK,    /* text, length */
	REPLY_BROKEN,  /* not RESP, or longer than allowed */
};

struct reply {
	enum reply_kind kind;
	const uint8_t *text;
	size_t length;
	size_t consumed; /* bytes of the buffer this reply took */
};

/* Parses one reply at the beginning of bytes; bulk strings of at most bulk_max bytes. */
void reply_parse(const uint8_t *bytes, size_t length, size_t bulk_max, struct reply *reply);

/* --- connections (redis_connection.c): bounded buffers around a non-blocking socket --- */

struct pending {
	uint64_t key;
	uint64_t sent_ns;
	uint32_t version; /* SET: what it stores; GET: what it must return */
	bool is_set;
};

struct connection {
	int fd;
	uint32_t index;
	uint64_t cursor; /* next key of a sequential phase */
	uint64_t random; /* state of its generator */
	uint8_t *out, *in;
	size_t out_start, out_end, out_size, in_start, in_end, in_size;
	struct pending pending[PIPELINE_MAX];
	uint32_t pending_head, pending_count;
};

struct redis_address {
	char host[256];
	uint64_t port;
	char socket[108]; /* unix socket; when set, host and port do not count */
};

/*
 * Connects, trying again until deadline_ns while the server is not there yet; buffers for
 * `pipeline` commands of value_bytes. 0 or -errno.
 */
int connection_open(struct connection *c, const struct redis_address *address, uint64_t value_bytes,
	uint64_t deadline_ns) FM_MUST_USE;
void connection_close(struct connection *c);
/* There is room for one more command of the largest size. */
bool connection_has_room(const struct connection *c, uint32_t pipeline);
/* Queue a command; room must have been asked for. */
void connection_get(struct connection *c, uint64_t key, uint32_t version);
void connection_set(
	struct connection *c, uint64_t key, uint32_t version, uint64_t seed, uint64_t value_bytes);
/* Write and read what the socket takes and gives, without waiting. 0, or -errno when it is gone. */
int connection_flush(struct connection *c) FM_MUST_USE;
int connection_fill(struct connection *c) FM_MUST_USE;
/* Takes the next whole reply and the command it answers. False when there is none; reply->kind is
 * then REPLY_PARTIAL, or REPLY_BROKEN when the stream makes no sense. reply->text is good until
 * connection_fill. */
bool connection_take(struct connection *c, struct reply *reply, struct pending *pending);

#endif
