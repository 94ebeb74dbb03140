/*
 * lb/prober.c: see prober.h.
 */
#include "lb/prober.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lb/probe.h"
#include "lb/probe_table.h"

#define JUNK_MAX 64 /* datagrams that are no answers, looked at in one prober_take */

struct prober {
	int fd;
	sa_family_t family; /* AF_INET6, also for IPv4; AF_INET where there is no IPv6 */
	struct probe_table table;
	uint32_t servers_max;
	struct sockaddr_in6 *addresses; /* port 0: none; of AF_INET: a sockaddr_in */
};

static int socket_open(struct prober *prober)
{
	int off = 0;

	prober->family = AF_INET6;
	prober->fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (prober->fd >= 0 &&
		setsockopt(prober->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0) {
		close(prober->fd);
		prober->fd = -1;
	}
	if (prober->fd >= 0)
		return 0;
	prober->family = AF_INET;
	prober->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return prober->fd >= 0 ? 0 : -errno;
}

int prober_open(uint32_t servers_max, uint64_t timeout_ns, struct prober **out)
{
	struct prober *prober = calloc(1, sizeof(*prober));
	int rc;

	*out = NULL;
	if (prober == NULL)
		return -ENOMEM;
	prober->fd = -1;
	prober->servers_max = servers_max;
	prober->addresses = calloc(servers_max, sizeof(*prober->addresses));
	rc = prober->addresses != NULL ? 0 : -ENOMEM;
	if (rc == 0)
		rc = probe_table_open(&prober->table, PROBER_UNDER_WAY_MAX, timeout_ns);
	if (rc == 0)
		rc = socket_open(prober);
	if (rc < 0) {
		prober_close(prober);
		return rc;
	}
	*out = prober;
	return 0;
}

void prober_close(struct prober *prober)
{
	if (prober == NULL)
		return;
	if (prober->fd >= 0)
		close(prober->fd);
	probe_table_close(&prober->table);
	free(prober->addresses);
	free(prober);
}

int prober_set(struct prober *prober, uint32_t server, const char *host, uint16_t port)
{
	struct addrinfo hints = {
		.ai_family = prober->family,
		.ai_socktype = SOCK_DGRAM,
		.ai_flags =
			(prober->family == AF_INET6 ? AI_V4MAPPED | AI_ALL : 0) | AI_NUMERICSERV,
	};
	struct addrinfo *found;
	char service[8];
	int rc;

	if (server >= prober->servers_max)
		return -EINVAL;
	snprintf(service, sizeof(service), "%u", port);
	rc = getaddrinfo(host, service, &hints, &found);
	if (rc != 0)
		return rc == EAI_AGAIN ? -EAGAIN : -ENOENT;
	memcpy(&prober->addresses[server], found->ai_addr,
		FM_MIN(found->ai_addrlen, sizeof(prober->addresses[server])));
	freeaddrinfo(found);
	return 0;
}

static socklen_t address_bytes(const struct prober *prober)
{
	return prober->family == AF_INET6 ? sizeof(struct sockaddr_in6)
					  : sizeof(struct sockaddr_in);
}

/* Ports lie at the same place in both kinds. */
static bool address_equal(
	const struct prober *prober, const struct sockaddr_in6 *a, const struct sockaddr_in6 *b)
{
	if (a->sin6_port != b->sin6_port || a->sin6_family != b->sin6_family)
		return false;
	if (prober->family == AF_INET6)
		return memcmp(&a->sin6_addr, &b->sin6_addr, sizeof(a->sin6_addr)) == 0;
	return memcmp(&((const struct sockaddr_in *)a)->sin_addr,
		       &((const struct sockaddr_in *)b)->sin_addr, sizeof(struct in_addr)) == 0;
}

int prober_send(struct prober *prober, uint32_t server, uint64_t tag, uint64_t now_ns)
{
	struct probe_packet packet;
	uint64_t cookie;
	ssize_t sent;
	int rc;

	if (server >= prober->servers_max || prober->addresses[server].sin6_port == 0)
		return -EDESTADDRREQ;
	cookie = probe_table_add(&prober->table, server, tag, now_ns);
	if (cookie == 0)
		return -EAGAIN;
	probe_ask(&packet, cookie);
	/* An error of an earlier datagram may be reported here; then once more. */
	for (unsigned try = 0; try < 2; try++) {
		sent = sendto(prober->fd, &packet, sizeof(packet), MSG_NOSIGNAL,
			(const struct sockaddr *)&prober->addresses[server], address_bytes(prober));
		if (sent >= 0)
			return 0;
	}
	rc = errno == ENOBUFS || errno == EWOULDBLOCK ? -EAGAIN : -errno;
	probe_table_drop(&prober->table, cookie);
	return rc;
}

int prober_fd(const struct prober *prober)
{
	return prober->fd;
}

bool prober_take(struct prober *prober, uint64_t now_ns, struct prober_answer *answer)
{
	for (unsigned i = 0; i < JUNK_MAX; i++) {
		uint8_t bytes[PROBE_BYTES + 1]; /* a longer one is no answer */
		struct sockaddr_in6 from = {0};
		socklen_t from_bytes = sizeof(from);
		struct probe_entry entry;
		uint64_t cookie;
		ssize_t got = recvfrom(
			prober->fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &from_bytes);

		if (got < 0)
			return false;
		if (!probe_parse_answer(bytes, (size_t)got, &answer->load, &cookie))
			continue;
		/* Which server was asked with this cookie says the table; it must be who answers.
		 */
		if (!probe_table_find(&prober->table, cookie, &entry) ||
			!address_equal(prober, &from, &prober->addresses[entry.server]) ||
			!probe_table_match(&prober->table, cookie, entry.server, &entry))
			continue;
		answer->server = entry.server;
		answer->tag = entry.tag;
		answer->round_trip_ns = now_ns > entry.sent_ns ? now_ns - entry.sent_ns : 0;
		return true;
	}
	return false;
}

bool prober_take_silent(struct prober *prober, uint64_t now_ns, uint32_t *server)
{
	struct probe_entry entry;

	if (!probe_table_expire(&prober->table, now_ns, &entry))
		return false;
	*server = entry.server;
	return true;
}

uint64_t prober_next_ns(const struct prober *prober)
{
	return probe_table_next_ns(&prober->table);
}
