/*
 * lb/probe_lab_test.h: two private network namespaces with a cable between them, for the tests and
 * the bench of probes: nothing outside is touched or disturbs.
 *
 *     server: fms0  10.77.0.1  fd77::1  fe80::77:1  <--- veth --->  client: fmc0  10.77.0.2 ...
 *
 * A socket stays in the namespace it was made in: lab_enter, socket(), lab_enter back.
 * Needs CAP_SYS_ADMIN and the command `ip`.
 */
#ifndef FM_LB_PROBE_LAB_TEST_H
#define FM_LB_PROBE_LAB_TEST_H

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAB_SERVER_CABLE "fms0"
#define LAB_CLIENT_CABLE "fmc0"
#define LAB_SERVER4 "10.77.0.1"
#define LAB_SERVER6 "fd77::1"
#define LAB_SERVER_LINK6 "fe80::77:1"
#define LAB_CLIENT4 "10.77.0.2"
#define LAB_CLIENT6 "fd77::2"

struct lab {
	int home, server, client; /* namespaces */
};

static inline int lab_here(void)
{
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

static inline bool lab_enter(int ns)
{
	return setns(ns, CLONE_NEWNET) == 0;
}

/* Lines for `ip`, run where the thread is. */
static inline bool lab_ip(const char *lines)
{
	FILE *ip = popen("PATH=$PATH:/usr/sbin:/sbin ip -batch - >/dev/null", "w");

	if (ip == NULL)
		return false;
	fputs(lines, ip);
	return pclose(ip) == 0;
}

static inline bool lab_build(struct lab *lab)
{
	char lines[512];

	if (unshare(CLONE_NEWNET) != 0)
		return false;
	lab->client = lab_here();
	if (unshare(CLONE_NEWNET) != 0)
		return false;
	lab->server = lab_here();
	snprintf(lines, sizeof(lines),
		"link set lo up\n"
		"link add " LAB_SERVER_CABLE " type veth peer name " LAB_CLIENT_CABLE "\n"
		"link set " LAB_CLIENT_CABLE " netns /proc/%d/fd/%d\n"
		"addr add " LAB_SERVER4 "/24 dev " LAB_SERVER_CABLE "\n"
		"addr add " LAB_SERVER6 "/64 dev " LAB_SERVER_CABLE " nodad\n"
		"addr add " LAB_SERVER_LINK6 "/64 dev " LAB_SERVER_CABLE " nodad\n"
		"link set " LAB_SERVER_CABLE " up\n",
		getpid(), lab->client);
	if (lab->client < 0 || lab->server < 0 || !lab_ip(lines) || !lab_enter(lab->client))
		return false;
	if (!lab_ip("link set lo up\n"
		    "addr add " LAB_CLIENT4 "/24 dev " LAB_CLIENT_CABLE "\n"
		    "addr add " LAB_CLIENT6 "/64 dev " LAB_CLIENT_CABLE " nodad\n"
		    "addr add fe80::77:2/64 dev " LAB_CLIENT_CABLE " nodad\n"
		    "link set " LAB_CLIENT_CABLE " up\n"))
		return false;
	return lab_enter(lab->server);
}

static inline void lab_close(struct lab *lab)
{
	if (lab->home >= 0)
		(void)lab_enter(lab->home);
	for (unsigned i = 0; i < 3; i++) {
		int fd = i == 0 ? lab->client : i == 1 ? lab->server : lab->home;

		if (fd >= 0)
			close(fd);
	}
}

/* The thread is in the server's namespace then. NULL, or why not. */
static inline const char *lab_open(struct lab *lab)
{
	lab->server = lab->client = -1;
	lab->home = lab_here();
	if (lab->home < 0)
		return "no network namespaces here";
	if (lab_build(lab))
		return NULL;
	lab_close(lab);
	return "private network namespaces need CAP_SYS_ADMIN, veth and the command ip";
}

/* Checksums made and checked by software on this interface, or left to its peer (the default). */
static inline bool lab_offload(const char *interface, bool on)
{
	static const unsigned commands[] = {ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM};
	struct ethtool_value value = {.data = on};
	struct ifreq request = {.ifr_data = (void *)&value};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool done = fd >= 0;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	for (unsigned i = 0; i < 2 && done; i++) {
		value.cmd = commands[i];
		/* veth cannot turn off its receiving side everywhere: it does not matter there */
		done = ioctl(fd, SIOCETHTOOL, &request) == 0 || i == 1;
	}
	if (fd >= 0)
		close(fd);
	return done;
}

#endif
