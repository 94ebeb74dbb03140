/*
 * apps/farmem_doctor_rdma.c: the doctor's look at RDMA: devices, their ports, addresses and MTU,
 * the right to use them, and how much memory may be pinned.
 *
 * It reads sysfs and opens nothing: the libraries of RDMA need not be there, and on a machine
 * without a device all of this is one line. The kernel's names: a device has ports, a port has a
 * table of GIDs; a RoCE GID that ends in ::ffff:a.b.c.d is that IPv4 address on the network device
 * beside it in gid_attrs/ndevs.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "apps/farmem_doctor.h"

#define CLASS "/sys/class/infiniband"
#define DEVICES_MAX 16
#define GIDS_MAX 256
#define MTU_FULL 4200 /* of the network device: room for a path MTU of 4096 */
#define PINNED_MIN                                                                                 \
	(64u << 20) /* staging and bounce buffers of one program; nodes pin what they lend */

struct rdma_port {
	char device[64];
	char state[32], layer[32]; /* "ACTIVE", "Ethernet" */
	char address[32];          /* the first IPv4 address; empty: none */
	char network[64];          /* the network device that has it */
	unsigned mtu;              /* of that; 0: not known */
};

struct rdma_survey {
	unsigned count;
	struct rdma_port ports[DEVICES_MAX];
};

/* "0000:0000:0000:0000:0000:ffff:0a09:0001" is 10.9.0.1. */
static bool gid_address(const char *gid, char *text, size_t size)
{
	unsigned high, low;

	if (sscanf(gid, "0000:0000:0000:0000:0000:ffff:%4x:%4x", &high, &low) != 2)
		return false;
	snprintf(text, size, "%u.%u.%u.%u", high >> 8, high & 255, low >> 8, low & 255);
	return true;
}

/* The first IPv4 address among a port's GIDs, and what network device has it. */
static void port_find_address(struct rdma_port *port)
{
	char path[PATH_MAX], text[128];

	for (unsigned i = 0; i < GIDS_MAX; i++) {
		snprintf(path, sizeof(path), CLASS "/%s/ports/1/gids/%u", port->device, i);
		if (read_line(path, text, sizeof(text)) < 0)
			return;
		if (!gid_address(text, port->address, sizeof(port->address)))
			continue;
		snprintf(path, sizeof(path), CLASS "/%s/ports/1/gid_attrs/ndevs/%u", port->device,
			i);
		if (read_line(path, port->network, sizeof(port->network)) < 0)
			return;
		snprintf(path, sizeof(path), "/sys/class/net/%s/mtu", port->network);
		if (read_line(path, text, sizeof(text)) == 0)
			port->mtu = (unsigned)strtoul(text, NULL, 10);
		return;
	}
}

static void port_read(struct rdma_port *port)
{
	char path[PATH_MAX], text[64];

	snprintf(path, sizeof(path), CLASS "/%s/ports/1/state", port->device);
	if (read_line(path, text, sizeof(text)) == 0) /* "4: ACTIVE" */
		snprintf(port->state, sizeof(port->state), "%.31s",
			strchr(text, ' ') ? strchr(text, ' ') + 1 : text);
	snprintf(path, sizeof(path), CLASS "/%s/ports/1/link_layer", port->device);
	if (read_line(path, port->layer, sizeof(port->layer)) < 0)
		snprintf(port->layer, sizeof(port->layer), "unknown link");
	port_find_address(port);
}

/* The first port of each device; that is where rdma_cm finds an address. */
static void survey_devices(struct rdma_survey *survey)
{
	DIR *class = opendir(CLASS);
	struct dirent *entry;

	memset(survey, 0, sizeof(*survey));
	if (!class)
		return;
	while (survey->count < DEVICES_MAX && (entry = readdir(class))) {
		struct rdma_port *port = &survey->ports[survey->count];

		if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof(port->device))
			continue;
		memcpy(port->device, entry->d_name, strlen(entry->d_name) + 1);
		port_read(port);
		survey->count++;
	}
	closedir(class);
}

/* Whether this kernel has soft-RoCE: loaded, or among its modules. */
static bool rxe_available(void)
{
	char path[PATH_MAX], line[1024];
	struct utsname name;
	bool found = false;
	FILE *modules;

	if (access("/sys/module/rdma_rxe", F_OK) == 0)
		return true;
	uname(&name);
	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep", name.release);
	modules = fopen(path, "re");
	if (!modules)
		return false;
	while (!found && fgets(line, sizeof(line), modules))
		found = strstr(line, "/rdma_rxe.ko") != NULL;
	fclose(modules);
	return found;
}

static const struct rdma_port *usable_port(const struct rdma_survey *survey)
{
	for (unsigned i = 0; i < survey->count; i++)
		if (strcmp(survey->ports[i].state, "ACTIVE") == 0 && survey->ports[i].address[0])
			return &survey->ports[i];
	return NULL;
}

static void look_devices(const struct doctor *doctor, struct finding *finding)
{
	static struct rdma_survey survey;
	const struct rdma_port *port;

	(void)doctor;
	survey_devices(&survey);
	if (survey.count == 0) {
		finding_ok(finding, "no device: memory nodes are reached by tcp or shm%s",
			rxe_available() ? "; soft-RoCE: modprobe rdma_rxe, then rdma link add "
					  "rxe0 type rxe netdev eth0"
					: "; this kernel has no soft-RoCE either (ci/rxe boots "
					  "guests that have)");
		return;
	}
	port = usable_port(&survey);
	if (!port) {
		port = &survey.ports[0];
		if (strcmp(port->state, "ACTIVE") != 0)
			finding_warn(finding, "ip link set DEVICE up, or plug the cable in",
				"%s is %s (%s)", port->device, port->state, port->layer);
		else
			finding_warn(finding, "ip addr add 10.0.0.1/24 dev DEVICE",
				"%s is ACTIVE (%s) and has no IPv4 address: connections are made "
				"by address",
				port->device, port->layer);
		return;
	}
	if (port->mtu && port->mtu < MTU_FULL)
		finding_warn(finding, "as root, on all machines: ip link set DEVICE mtu 9000",
			"%s is ACTIVE at %s (%s, %s); the MTU of %u allows packets of %u bytes: a "
			"page takes several",
			port->device, port->address, port->layer, port->network, port->mtu,
			port->mtu > 2200 ? 2048 : 1024);
	else
		finding_ok(finding,
			"%s is ACTIVE at %s (%s, %s): farmem-memnode --verbs %s:7402; "
			"farmem run --fabric verbs",
			port->device, port->address, port->layer, port->network, port->address);
}

static bool device_present(void)
{
	static struct rdma_survey survey;

	survey_devices(&survey);
	return survey.count > 0;
}

/* The character devices are everybody's on most systems; containers often lack them. */
static void look_device_files(const struct doctor *doctor, struct finding *finding)
{
	(void)doctor;
	if (!device_present())
		finding_ok(finding, "no device");
	else if (access("/dev/infiniband/rdma_cm", F_OK) < 0)
		finding_warn(finding, "modprobe rdma_ucm; in a container: --device /dev/infiniband",
			"/dev/infiniband/rdma_cm: %s", strerror(errno));
	else if (access("/dev/infiniband/rdma_cm", R_OK | W_OK) < 0 ||
		 access("/dev/infiniband/uverbs0", R_OK | W_OK) < 0)
		finding_warn(finding,
			"as root: chmod 666 /dev/infiniband/rdma_cm "
			"/dev/infiniband/uverbs*",
			"/dev/infiniband is not ours to use: %s", strerror(errno));
	else
		finding_ok(finding, "/dev/infiniband can be opened");
}

static void look_pinning(const struct doctor *doctor, struct finding *finding)
{
	struct rlimit limit;
	char text[32];

	(void)doctor;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (!device_present()) {
		finding_ok(finding, "no device");
		return;
	}
	if (limit.rlim_cur == RLIM_INFINITY || geteuid() == 0) {
		finding_ok(finding, "no limit");
		return;
	}
	format_bytes(limit.rlim_cur, text, sizeof(text));
	if (limit.rlim_cur < PINNED_MIN)
		finding_warn(finding,
			"ulimit -l unlimited; for good: '* - memlock unlimited' in "
			"/etc/security/limits.d/farmem.conf, LimitMEMLOCK=infinity in a unit",
			"only %s may be pinned: programs need 64 MiB, a memory node all that it "
			"lends",
			text);
	else
		finding_ok(finding, "%s may be pinned; a memory node pins all that it lends", text);
}

const struct doctor_check doctor_rdma_checks[] = {
	{"rdma", look_devices},
	{"rdma rights", look_device_files},
	{"rdma pinning", look_pinning},
	{NULL, NULL},
};
