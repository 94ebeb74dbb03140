/*
 * lb/probe_user.h: the responder: a thread with a UDP socket of its own that answers probes where
 * the kernel may not.
 *
 * Called by lb/probe_server.c.
 */
#ifndef FM_LB_PROBE_USER_H
#define FM_LB_PROBE_USER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/compiler.h"

struct probe_user_options {
	uint16_t port;
	const uint8_t *address; /* 16 bytes, IPv4 as ::ffff:a.b.c.d; NULL: all */
	int priority; /* SCHED_FIFO; 0: ordinary. Refused: a line is logged, and it is ordinary */
	/* Writes at most `length` bytes to `answer` and returns how many; 0: no answer. */
	size_t (*answer)(void *context, const struct sockaddr *from, const void *bytes,
		size_t length, void *answer);
	void *context;
};

struct probe_user;
/* 0 or -errno (-EADDRINUSE: the port is somebody's). */
int probe_user_open(const struct probe_user_options *options, struct probe_user **user) FM_MUST_USE;
/* Ends the thread. NULL is fine. */
void probe_user_close(struct probe_user *user);

#endif
