/*
 * apps/redis_connection.c: see redis_load.h. Sockets, buffers and the commands in flight.
 *
 * 1. pending[] holds exactly the commands queued or sent whose reply has not been taken, in order.
 * 2. Buffers hold a full pipeline of the largest command, so that queueing a command never fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "apps/redis_load.h"
#include "base/assert.h"
#include "base/clock.h"

#define RETRY_MS 20
#define OUT_COMMANDS 32 /* SETs the output buffer holds at least; the pipeline may be deeper */

static int connect_unix(const char *path)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return -errno;
	memcpy(name.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static int connect_tcp(const char *host, uint64_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	int one = 1, rc = -EHOSTUNREACH;
	char service[8];

	snprintf(service, sizeof(service), "%u", (unsigned)port);
	if (getaddrinfo(host, service, &hints, &list) != 0)
		return -EADDRNOTAVAIL;
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			freeaddrinfo(list);
			return fd;
		}
		rc = -errno;
		if (fd >= 0)
			close(fd);
	}
	freeaddrinfo(list);
	return rc;
}

static bool may_come_yet(int rc)
{
	return rc == -ECONNREFUSED || rc == -ENOENT || rc == -EAGAIN;
}

int connection_open(struct connection *c, const struct redis_address *address, uint64_t value_bytes,
	uint64_t deadline_ns)
{
	uint64_t command = value_bytes + COMMAND_OVERHEAD;
	int rc;

	c->out_size = command * OUT_COMMANDS;
	c->in_size = FM_MAX(command * 2, 64u << 10);
	c->out = malloc(c->out_size);
	c->in = malloc(c->in_size);
	if (!c->out || !c->in)
		return -ENOMEM;
	/* A server that is just starting announces itself by accepting: there is nothing else to
	 * wait on. */
	for (;;) {
		rc = address->socket[0] ? connect_unix(address->socket)
					: connect_tcp(address->host, address->port);
		if (rc >= 0 || !may_come_yet(rc) || clock_now_ns() >= deadline_ns)
			break;
		poll(NULL, 0, RETRY_MS);
	}
	if (rc < 0)
		return rc;
	c->fd = rc;
	return fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

void connection_close(struct connection *c)
{
	if (c->fd > 0)
		close(c->fd);
	free(c->out);
	free(c->in);
	*c = (struct connection){0};
}

bool connection_has_room(const struct connection *c, uint32_t pipeline)
{
	return c->pending_count < pipeline &&
	       c->out_size - c->out_end >= c->out_size / OUT_COMMANDS;
}

static void pending_push(struct connection *c, uint64_t key, uint32_t version, bool is_set)
{
	uint32_t at = (c->pending_head + c->pending_count) % PIPELINE_MAX;

	FM_ASSERT_LT(c->pending_count, PIPELINE_MAX);
	c->pending[at] = (struct pending){key, clock_now_ns(), version, is_set};
	c->pending_count++;
}

static void out_print(struct connection *c, const char *format, ...) FM_PRINTF(2, 3);
static void out_print(struct connection *c, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length =
		vsnprintf((char *)c->out + c->out_end, c->out_size - c->out_end, format, arguments);
	va_end(arguments);
	FM_ASSERT(length > 0 && (size_t)length < c->out_size - c->out_end);
	c->out_end += (size_t)length;
}

/* Keys are "key:" and 12 digits: 16 bytes. */
void connection_get(struct connection *c, uint64_t key, uint32_t version)
{
	out_print(c, "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012llu\r\n", (unsigned long long)key);
	pending_push(c, key, version, false);
}

void connection_set(
	struct connection *c, uint64_t key, uint32_t version, uint64_t seed, uint64_t value_bytes)
{
	out_print(c, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012llu\r\n$%llu\r\n", (unsigned long long)key,
		(unsigned long long)value_bytes);
	FM_ASSERT_LE(c->out_end + value_bytes + 2, c->out_size);
	value_fill(c->out + c->out_end, value_bytes, seed, key, version);
	c->out_end += value_bytes;
	memcpy(c->out + c->out_end, "\r\n", 2);
	c->out_end += 2;
	pending_push(c, key, version, true);
}

int connection_flush(struct connection *c)
{
	while (c->out_start < c->out_end) {
		ssize_t sent =
			send(c->fd, c->out + c->out_start, c->out_end - c->out_start, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			break;
		c->out_start += (size_t)sent;
	}
	if (c->out_start < c->out_end && errno != EAGAIN)
		return -errno;
	memmove(c->out, c->out + c->out_start, c->out_end - c->out_start);
	c->out_end -= c->out_start;
	c->out_start = 0;
	return 0;
}

int connection_fill(struct connection *c)
{
	ssize_t got;

	memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
	c->in_end -= c->in_start;
	c->in_start = 0;
	got = recv(c->fd, c->in + c->in_end, c->in_size - c->in_end, 0);
	if (got == 0)
		return -ECONNRESET;
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	c->in_end += (size_t)got;
	return 0;
}

bool connection_take(struct connection *c, struct reply *reply, struct pending *pending)
{
	/* A value of the wrong length should be told as such: allow all that fits the buffer. */
	size_t bulk_max = c->in_size - COMMAND_OVERHEAD;

	reply_parse(c->in + c->in_start, c->in_end - c->in_start, bulk_max, reply);
	if (reply->kind == REPLY_PARTIAL || reply->kind == REPLY_BROKEN)
		return false;
	if (c->pending_count == 0) {
		reply->kind = REPLY_BROKEN; /* an answer to nothing */
		return false;
	}
	c->in_start += reply->consumed;
	*pending = c->pending[c->pending_head];
	c->pending_head = (c->pending_head + 1) % PIPELINE_MAX;
	c->pending_count--;
	return true;
}
