/*
 * memnode/daemon_options.c: see daemon_options.h. Callers: main.c, tests.
 *
 * Later wins: default < file < flags. The FARMEM_* variables are not read: they are the options of
 * the runtime, and a node started beside a program inherits that program's.
 */
#include "memnode/daemon_options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "memnode/lease.h"

#define DEFAULT_LISTEN "127.0.0.1:7400"

static const char *const huge_choices[] = {"auto", "yes", "no", NULL};
/* In the order of enum probe_mode. */
static const char *const probe_choices[] = {
	"auto", "tc", "xdp", "xdp-generic", "user", "none", NULL};
static const char *const level_choices[] = {"error", "warn", "info", "debug", NULL};

#define FIELD(field) .offset = offsetof(struct daemon_options, field)
#define TEXT(field) FIELD(field), .size = sizeof(((struct daemon_options *)0)->field)

const struct option_spec daemon_specs[] = {
	{.name = "listen",
		.type = OPTION_STRING,
		TEXT(listen),
		.argument = "HOST:PORT",
		.help = "where agents reach this node (gRPC)\n"
			"default: " DEFAULT_LISTEN ", so nobody else; with --dir: none"},
	{.name = "data-listen",
		.type = OPTION_STRING,
		TEXT(data_listen),
		.argument = "HOST:PORT",
		.help = "where their programs read and write (tcp); default: --listen's host, port "
			"+ 1\n"
			"port 0, here and there: the kernel chooses, the ready line tells"},
	{.name = "verbs",
		.type = OPTION_STRING,
		TEXT(verbs),
		.argument = "HOST:PORT",
		.help = "where they read and write by RDMA, an address that an RDMA device has\n"
			"(farmem doctor lists them); default: no RDMA"},
	{.name = "memory",
		.letter = 'm',
		.type = OPTION_SHARE,
		FIELD(memory),
		.argument = "SIZE|PERCENT",
		.help = "most to lend, or a share of the machine's memory\n"
			"default: half of what is available now"},
	{.name = "client-quota",
		.type = OPTION_SIZE,
		FIELD(client_quota_bytes),
		.argument = "SIZE",
		.help = "most to lend to one client; default: no limit"},
	{.name = "dir",
		.type = OPTION_STRING,
		TEXT(dir),
		.argument = "PATH",
		.help = "serve this machine by DIR/ctl.sock and DIR/data.sock (shared memory)"},
	{.name = "name",
		.type = OPTION_STRING,
		TEXT(name),
		.argument = "TEXT",
		.help = "what people call this node; default: the host's name"},
	{.name = "host-id",
		.type = OPTION_STRING,
		TEXT(host_id),
		.argument = "TEXT",
		.help = "machine identity; nodes with one identity never share a group's columns\n"
			"default: /etc/machine-id. For tests of many \"machines\" on one"},
	{.name = "threads",
		.type = OPTION_COUNT,
		FIELD(threads),
		.min = 1,
		.max = 64,
		.value = "2",
		.argument = "N",
		.help = "threads that serve the tcp data plane"},
	{.name = "huge-pages",
		.type = OPTION_CHOICE,
		FIELD(huge_pages),
		.choices = huge_choices,
		.value = "auto",
		.argument = "auto|yes|no",
		.help = "lend huge pages; auto: when the machine has set some aside"},
	{.name = "orphan-keep",
		.type = OPTION_DURATION,
		FIELD(orphan_keep_ns),
		.value = "10min",
		.argument = "TIME",
		.help = "how long bytes are kept after their client fell silent"},
	{.name = "keepalive",
		.type = OPTION_DURATION,
		FIELD(keepalive_ns),
		.min = 1000000,
		.value = "15s",
		.argument = "TIME",
		.help = "a client without a sign of life for so long is silent"},
	{.name = "spin",
		.type = OPTION_DURATION,
		FIELD(spin_ns),
		.value = "20us",
		.max = 1000000000,
		.argument = "TIME",
		.help = "how long a data thread spins before it sleeps"},
	{.name = "drain-grace",
		.type = OPTION_DURATION,
		FIELD(drain_grace_ns),
		.value = "60s",
		.argument = "TIME",
		.help = "after SIGTERM, how long clients have to move their bytes elsewhere\n"
			"0: end at once. A second SIGTERM, or SIGINT, ends at once, too"},
	{.name = "offload-nice",
		.type = OPTION_COUNT,
		FIELD(offload_nice),
		.max = 19,
		.value = "5",
		.argument = "N",
		.help = "how far rebuilding stands back behind everything else here, as nice(1) "
			"has it"},
	{.name = "probe",
		.type = OPTION_CHOICE,
		FIELD(probe),
		.choices = probe_choices,
		.value = "user",
		.argument = "MODE",
		.help = "who answers when clients ask how busy the node is (UDP, the data port's "
			"number):\n"
			"user (the node), tc, xdp or xdp-generic (an eBPF program, without waking "
			"it;\n"
			"needs CAP_BPF and CAP_NET_ADMIN), auto (tc where it may), none"},
	{.name = "probe-allow",
		.type = OPTION_STRING,
		TEXT(probe_allow),
		.argument = "PREFIXES",
		.help = "who may ask that: 10.0.0.0/8,192.168.1.7; default: everybody"},
	{.name = "owner-fd",
		.type = OPTION_COUNT,
		FIELD(owner_fd),
		.min = 3,
		.max = 1 << 20,
		.argument = "N",
		.flag_only = true,
		.help = "exit when this pipe ends and no client has been connected for 10 s"},
	{.name = "ready-fd",
		.type = OPTION_COUNT,
		FIELD(ready_fd),
		.min = 3,
		.max = 1 << 20,
		.argument = "N",
		.flag_only = true,
		.help = "write the ready line there too, and close it"},
	{.name = "config",
		.type = OPTION_STRING,
		TEXT(config),
		.argument = "FILE",
		.flag_only = true,
		.help = "read options from this file first"},
	{.name = "log",
		.type = OPTION_STRING,
		TEXT(log),
		.argument = "FILE",
		.help = "log there; default: stderr"},
	{.name = "log-level",
		.type = OPTION_CHOICE,
		FIELD(log_level),
		.choices = level_choices,
		.value = "warn",
		.argument = "LEVEL",
		.help = "error, warn, info or debug"},
};
const unsigned daemon_specs_count = FM_ARRAY_COUNT(daemon_specs);

static int wrong(struct option_error *error, const char *format, ...) FM_PRINTF(2, 3);

static int wrong(struct option_error *error, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(error->text, sizeof error->text, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

int daemon_address_split(const char *address, char host[DAEMON_ADDRESS_BYTES], uint16_t *port)
{
	const char *colon = strrchr(address, ':');
	if (colon == NULL || colon == address || strlen(address) >= DAEMON_ADDRESS_BYTES)
		return -EINVAL;
	uint64_t number;
	if (parse_count(colon + 1, &number) != 0 || number > UINT16_MAX)
		return -EINVAL;
	size_t length = (size_t)(colon - address);
	if (address[0] == '[' && colon[-1] == ']') {
		address++;
		length -= 2;
	} else if (memchr(address, ':', length) != NULL) {
		return -EINVAL; /* an IPv6 address wants its brackets */
	}
	if (length == 0)
		return -EINVAL;
	memcpy(host, address, length);
	host[length] = '\0';
	*port = (uint16_t)number;
	return 0;
}

static int check_address(const char *flag, const char *address, struct option_error *error)
{
	char host[DAEMON_ADDRESS_BYTES];
	uint16_t port;
	if (daemon_address_split(address, host, &port) == 0)
		return 0;
	return wrong(
		error, "--%s %s: not HOST:PORT (0.0.0.0:7400, [::]:7400, h1:7400)", flag, address);
}

/* --listen and --data-listen: defaults and form. */
static int check_addresses(struct daemon_options *options, struct option_error *error)
{
	if (options->listen[0] == '\0' && options->dir[0] == '\0')
		snprintf(options->listen, sizeof options->listen, "%s", DEFAULT_LISTEN);
	if (options->listen[0] != '\0') {
		char host[DAEMON_ADDRESS_BYTES];
		uint16_t port;
		if (check_address("listen", options->listen, error) != 0)
			return -EINVAL;
		(void)!daemon_address_split(options->listen, host, &port);
		if (options->data_listen[0] == '\0' && port == UINT16_MAX)
			return wrong(error,
				"--listen %s: no port above it for data: give --data-listen",
				options->listen);
		int length = (int)(strrchr(options->listen, ':') - options->listen);
		if (options->data_listen[0] == '\0')
			snprintf(options->data_listen, sizeof options->data_listen, "%.*s:%u",
				length, options->listen, port != 0 ? port + 1u : 0u);
	}
	if (options->data_listen[0] != '\0' &&
		check_address("data-listen", options->data_listen, error) != 0)
		return -EINVAL;
	if (options->verbs[0] != '\0' && check_address("verbs", options->verbs, error) != 0)
		return -EINVAL;
	if (strcmp(options->listen, options->data_listen) == 0 && options->listen[0] != '\0' &&
		strcmp(strrchr(options->listen, ':'), ":0") != 0)
		return wrong(error, "--listen and --data-listen are both %s: give them two ports",
			options->listen);
	return 0;
}

static int check_memory(struct daemon_options *options, const struct machine_memory *machine,
	struct option_error *error)
{
	char asked[32], total[32];
	const struct option_share *memory = &options->memory;
	options->memory_bytes = memory->bytes;
	if (memory->permille != 0)
		options->memory_bytes = machine->total_bytes / 1000 * memory->permille;
	else if (memory->bytes == 0)
		options->memory_bytes = machine->available_bytes / 2;
	options->memory_bytes = FM_ALIGN_DOWN(options->memory_bytes, (uint64_t)FM_PAGE_SIZE);
	if (options->memory_bytes == 0)
		return wrong(error, "--memory: less than a page is nothing to lend");
	if (options->memory_bytes > machine->total_bytes)
		return wrong(error, "--memory %s: this machine has %s: give less",
			format_bytes(options->memory_bytes, asked, sizeof asked),
			format_bytes(machine->total_bytes, total, sizeof total));
	if (options->client_quota_bytes > options->memory_bytes)
		return wrong(error, "--client-quota %s: more than is lent altogether (%s)",
			format_bytes(options->client_quota_bytes, asked, sizeof asked),
			format_bytes(options->memory_bytes, total, sizeof total));
	return 0;
}

static int check_texts(struct daemon_options *options, struct option_error *error)
{
	if (options->name[0] == '\0')
		if (gethostname(options->name, sizeof options->name - 1) != 0 ||
			options->name[0] == '\0')
			snprintf(options->name, sizeof options->name, "memnode");
	if (options->host_id[0] == '\0' && machine_id_read(options->host_id) != 0)
		return wrong(error,
			"--host-id: neither /etc/machine-id nor a boot id can be read: give one");
	const char *texts[] = {options->name, options->host_id};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(texts); i++)
		for (const char *at = texts[i]; *at != '\0'; at++)
			if (*at <= ' ' || *at == 0x7f || *at == '"' || *at == '\\')
				return wrong(error, "--%s %s: letters, digits and -_.:/ only",
					i == 0 ? "name" : "host-id", texts[i]);
	return 0;
}

/* Flags first to find --config; then once more, because they win over the file. */
static int read_sources(
	struct daemon_options *options, int argc, char *const *argv, struct option_error *error)
{
	for (unsigned round = 0; round < 2; round++) {
		int index = 1;
		if (options_read_flags(daemon_specs, daemon_specs_count, options, argc, argv,
			    &index, error) != 0)
			return -EINVAL;
		if (index < argc)
			return wrong(error, "%s: not a flag; see --help", argv[index]);
		if (options->config[0] == '\0')
			return 0;
		if (round == 0 && options_read_file(daemon_specs, daemon_specs_count, options,
					  options->config, error) != 0)
			return -EINVAL;
	}
	return 0;
}

int daemon_options_read(
	struct daemon_options *options, int argc, char *const *argv, struct option_error *error)
{
	struct machine_memory machine;
	memset(options, 0, sizeof *options);
	if (options_set_defaults(daemon_specs, daemon_specs_count, options, error) != 0 ||
		read_sources(options, argc, argv, error) != 0)
		return -EINVAL;
	if (machine_memory_read(&machine) != 0)
		return wrong(error, "/proc/meminfo cannot be read");
	/* Hugetlb pages, else transparent ones, else small ones: each falls back to the next. */
	if (options->huge_pages == HUGE_PAGES_AUTO)
		options->huge_pages = HUGE_PAGES_YES;
	if (check_addresses(options, error) != 0 || check_memory(options, &machine, error) != 0)
		return -EINVAL;
	return check_texts(options, error);
}
