/*
 * rpc/urpc_address.c: from "udp:host:port", "unix:/path" and "shm:/path" to addresses, and
 * comparing them. Used by urpc's client and server when they open; the comparison at every reply.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/urpc_link.h"

#define HOST_BYTES_MAX 256

static uint64_t address_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

bool urpc_address_equal(const struct urpc_address *a, const struct urpc_address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	switch (a->any.sa_family) {
	case AF_INET:
		return a->in.sin_port == b->in.sin_port &&
		       a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	case AF_INET6:
		return a->in6.sin6_port == b->in6.sin6_port &&
		       memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof(struct in6_addr)) == 0;
	default:
		return a->length == b->length && memcmp(&a->any, &b->any, a->length) == 0;
	}
}

uint64_t urpc_address_hash(const struct urpc_address *address, uint64_t key)
{
	uint64_t word, hash = address_mix(key ^ address->any.sa_family);
	const uint8_t *bytes = (const uint8_t *)&address->any;
	size_t length = address->length;

	switch (address->any.sa_family) {
	case AF_INET:
		return address_mix(hash ^ ((uint64_t)address->in.sin_addr.s_addr << 16 |
						  address->in.sin_port));
	case AF_INET6: /* flow label and scope do not tell senders apart */
		bytes = (const uint8_t *)&address->in6.sin6_addr;
		length = sizeof(address->in6.sin6_addr);
		hash = address_mix(hash ^ address->in6.sin6_port);
		break;
	}
	for (size_t i = 0; i < length; i += sizeof(word)) {
		word = 0;
		memcpy(&word, bytes + i, FM_MIN(sizeof(word), length - i));
		hash = address_mix(hash ^ word) + key;
	}
	return hash;
}

static int address_of_path(const char *path, struct urpc_address *address)
{
	size_t length = strlen(path);

	if (length == 0 || length >= sizeof(address->un.sun_path))
		return -EINVAL;
	address->un.sun_family = AF_UNIX;
	memcpy(address->un.sun_path, path, length + 1);
	address->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
	return 0;
}

/* "host:port", "[v6]:port", ":port" split up; false: it is none of these. */
static bool address_split(const char *text, char host[HOST_BYTES_MAX], const char **port)
{
	const char *colon = strrchr(text, ':');
	size_t length;

	if (colon == NULL || colon[1] == '\0' || strlen(colon + 1) > 5 ||
		strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
		strtoul(colon + 1, NULL, 10) > UINT16_MAX)
		return false;
	length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	if (length >= HOST_BYTES_MAX)
		return false;
	memcpy(host, text, length);
	host[length] = '\0';
	*port = colon + 1;
	return true;
}

static int address_of_host(const char *text, bool listen, struct urpc_address *address)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
	struct addrinfo *info;
	char host[HOST_BYTES_MAX];
	const char *port;
	int r;

	if (!address_split(text, host, &port))
		return -EINVAL;
	if (host[0] == '\0' && !listen)
		return -EINVAL;
	hints.ai_flags = AI_NUMERICSERV | (listen ? AI_PASSIVE : 0);
	if (host[0] == '\0')
		hints.ai_family = AF_INET;
	r = getaddrinfo(host[0] == '\0' ? NULL : host, port, &hints, &info);
	if (r == EAI_AGAIN)
		return -EAGAIN;
	if (r == EAI_SERVICE)
		return -EINVAL;
	if (r)
		return r == EAI_MEMORY ? -ENOMEM : -ENOENT;
	memcpy(&address->any, info->ai_addr, info->ai_addrlen);
	address->length = info->ai_addrlen;
	freeaddrinfo(info);
	if (!listen && address->in.sin_port == 0) /* in6's lies in the same place */
		return -EINVAL;
	return 0;
}

int urpc_address_parse(
	const char *text, bool listen, enum urpc_transport *transport, struct urpc_address *address)
{
	memset(address, 0, sizeof(*address));
	if (text == NULL)
		return -EINVAL;
	if (strncmp(text, "unix:", 5) == 0) {
		*transport = URPC_UNIX;
		return address_of_path(text + 5, address);
	}
	if (strncmp(text, "shm:", 4) == 0) {
		*transport = URPC_SHM;
		return address_of_path(text + 4, address);
	}
	*transport = URPC_UDP;
	return address_of_host(strncmp(text, "udp:", 4) == 0 ? text + 4 : text, listen, address);
}
