/*
 * rpc/fabric_address.c: an endpoint's ADDRESS:PORT as a socket address. Numbers only: looking names
 * up needs malloc, which the application's process must not be made to call; the agent resolves
 * (rpc/resolve.h). Used by fabric_tcp.c and fabric_verbs_connect.c. Pure.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "rpc/fabric_provider.h"

static int parse_port(const char *text, uint16_t *port)
{
	uint32_t value = 0;
	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		value = value * 10 + (uint32_t)(*text - '0');
		if (value > UINT16_MAX)
			return -EINVAL;
	}
	*port = htons((uint16_t)value);
	return value ? 0 : -EINVAL;
}

int fabric_parse_address(const char *text, struct sockaddr_storage *address, socklen_t *length)
{
	char host[FABRIC_ENDPOINT_MAX];
	const char *colon = strrchr(text, ':');
	if (!colon || colon == text || (size_t)(colon - text) >= sizeof(host))
		return -EINVAL;
	size_t host_length = (size_t)(colon - text);
	memcpy(host, text, host_length);
	host[host_length] = '\0';
	memset(address, 0, sizeof(*address));
	if (host[0] == '[' && host[host_length - 1] == ']') {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
		host[host_length - 1] = '\0';
		v6->sin6_family = AF_INET6;
		*length = sizeof(*v6);
		if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) != 1)
			return -EINVAL;
		return parse_port(colon + 1, &v6->sin6_port);
	}
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	v4->sin_family = AF_INET;
	*length = sizeof(*v4);
	if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &v4->sin_addr) != 1)
		return -EINVAL;
	return parse_port(colon + 1, &v4->sin_port);
}
