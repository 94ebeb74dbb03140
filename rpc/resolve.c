/*
 * rpc/resolve.c: see rpc/resolve.h. A file of its own, so that what links the fabric alone has no
 * resolver in it.
 */
#include "rpc/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define HOST_MAX 256

static int resolve_error(int error)
{
	switch (error) {
	case EAI_AGAIN:
		return -EAGAIN;
	case EAI_MEMORY:
		return -ENOMEM;
	}
	return -ENOENT;
}

int resolve_endpoint(const char *host, uint16_t port, char endpoint[FABRIC_ENDPOINT_MAX])
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *info;
	char name[HOST_MAX];
	size_t length = strlen(host);
	if (length >= 2 && host[0] == '[' && host[length - 1] == ']') {
		host++;
		length -= 2;
	}
	if (length == 0 || length >= sizeof(name) || port == 0)
		return -EINVAL;
	memcpy(name, host, length);
	name[length] = '\0';
	int r = getaddrinfo(name, NULL, &hints, &info);
	if (r)
		return resolve_error(r);
	const bool v6 = info->ai_family == AF_INET6;
	r = getnameinfo(
		info->ai_addr, info->ai_addrlen, name, sizeof(name), NULL, 0, NI_NUMERICHOST);
	freeaddrinfo(info);
	if (r)
		return resolve_error(r);
	int n = snprintf(
		endpoint, FABRIC_ENDPOINT_MAX, v6 ? "tcp:[%s]:%u" : "tcp:%s:%u", name, port);
	return n > 0 && n < FABRIC_ENDPOINT_MAX ? 0 : -EINVAL;
}
