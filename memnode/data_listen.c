/*
 * memnode/data_listen.c: the data server's listening sockets. Called by data_server.c once, at
 * start.
 */
#include "memnode/data_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 512

/* "host:port" or "[v6]:port" in two parts. */
static int split_address(const char *text, char host[256], const char **port)
{
	const char *colon = strrchr(text, ':');
	if (!colon || !colon[1] || (size_t)(colon - text) >= 256)
		return -EINVAL;
	size_t length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	*port = colon + 1;
	return 0;
}

static int listen_on(const struct addrinfo *info)
{
	int one = 1;
	int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, BACKLOG)) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* The port a listening socket got. */
static int bound_port(int fd, uint16_t *port)
{
	struct sockaddr_storage bound;
	socklen_t length = sizeof(bound);
	if (getsockname(fd, (struct sockaddr *)&bound, &length))
		return -errno;
	*port = bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
					    : ((struct sockaddr_in *)&bound)->sin_port;
	*port = ntohs(*port);
	return 0;
}

int data_listen_tcp(const char *address, uint16_t *port)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *info;
	char host[256];
	const char *service;
	int r = split_address(address, host, &service);
	if (r)
		return r;
	if (getaddrinfo(host[0] ? host : NULL, service, &hints, &info))
		return -EADDRNOTAVAIL;
	int fd = listen_on(info);
	freeaddrinfo(info);
	r = fd < 0 ? fd : bound_port(fd, port);
	if (r && fd >= 0)
		close(fd);
	return r ? r : fd;
}

/* Does somebody answer at this socket file? */
static bool unix_is_alive(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool alive =
		fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
				   errno == EAGAIN || errno == EPROTOTYPE);
	if (fd >= 0)
		close(fd);
	return alive;
}

/* Makes way for a socket file at this path: a stale one is removed. */
static int make_way(const struct sockaddr_un *address)
{
	struct stat st;
	if (lstat(address->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode) || unix_is_alive(address))
		return -EADDRINUSE;
	return unlink(address->sun_path) ? -errno : 0;
}

int data_listen_unix(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, strlen(path) + 1);
	int r = make_way(&address);
	if (r)
		return r;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
		/* A client of root's node may have been root when it began, and connect later: the
		 * capability is what is asked for here, as on tcp. */
		if (geteuid() == 0)
			(void)chmod(path, 0666);
		if (listen(fd, BACKLOG) == 0)
			return fd;
		r = -errno;
		(void)unlink(path);
	} else {
		r = -errno;
	}
	close(fd);
	return r;
}
