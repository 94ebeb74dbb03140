/*
 * tests/soak/watched.c: see watched.h.
 */
#include "tests/soak/watched.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc.h"
#include "farmem/record.h"
#include "farmem/stats_table.h"

#define FLIP_TRIES 64 /* records looked at per flip */

/* ---- finding it ---- */

/* The next entry of a directory that is a number, or -1 at its end. */
static long next_number(DIR *directory)
{
	const struct dirent *entry;

	while ((entry = readdir(directory)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			return strtol(entry->d_name, NULL, 10);
	return -1;
}

/* Opens, of the descriptors in the directory, the first that is a memfd of this name at or after
 * *from; *from is then the one after it. -ENOENT: none. */
static int memfd_open(const char *directory_path, const char *name, long *from)
{
	char path[96], target[96], wanted[64];
	DIR *directory = opendir(directory_path);
	long number;
	int found = -ENOENT;

	snprintf(wanted, sizeof wanted, "/memfd:%s", name);
	while (directory && found < 0 && (number = next_number(directory)) >= 0) {
		ssize_t length;

		if (number < *from)
			continue;
		snprintf(path, sizeof path, "%s/%ld", directory_path, number);
		length = readlink(path, target, sizeof target - 1);
		if (length <= 0)
			continue;
		target[length] = '\0';
		if (strncmp(target, wanted, strlen(wanted)) != 0)
			continue;
		found = open(path, O_RDWR | O_CLOEXEC);
		*from = number + 1;
	}
	if (directory)
		closedir(directory);
	return found;
}

int watched_open(struct watched *watched, pid_t pid)
{
	char path[64];
	int rc = -ENOENT;
	DIR *tasks;
	long task;

	memset(watched, 0, sizeof *watched);
	snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && rc != 0 && (task = next_number(tasks)) >= 0) {
		long from = 0;
		int fd;

		snprintf(path, sizeof path, "/proc/%d/task/%ld/fd", (int)pid, task);
		fd = memfd_open(path, "farmem-catalog", &from);
		if (fd >= 0)
			rc = catalog_attach(&watched->catalog, fd);
	}
	if (tasks)
		closedir(tasks);
	watched->pid = pid;
	return rc;
}

void watched_close(struct watched *watched)
{
	catalog_close(&watched->catalog);
}

/* ---- groups ---- */

static unsigned groups_count(const struct watched *watched)
{
	uint32_t count = atomic_load(&watched->catalog.header->groups_count);

	return count < CATALOG_GROUPS_MAX ? count : CATALOG_GROUPS_MAX;
}

static unsigned group_columns(const struct catalog_group *group)
{
	unsigned columns = (unsigned)group->k + group->m;

	return columns < EC_N_MAX ? columns : EC_N_MAX;
}

static bool group_holds(const struct catalog_group *group)
{
	uint32_t state = atomic_load(&group->state);

	if (state == GROUP_NONE || state == GROUP_RETIRED)
		return false;
	for (unsigned p = 0; p < group_columns(group); p++)
		if (atomic_load(&group->columns[p].used) != 0)
			return true;
	return false;
}

static const struct catalog_node *column_node(
	const struct watched *watched, const struct catalog_column *column)
{
	return &watched->catalog.nodes[catalog_column_node(column)];
}

static void health_add_group(
	const struct watched *watched, const struct catalog_group *group, struct health *health)
{
	const struct catalog_header *header = watched->catalog.header;
	uint32_t state = atomic_load(&group->state);
	unsigned columns = group_columns(group);

	health->groups++;
	health->open += state == GROUP_OPEN;
	health->closed += state == GROUP_CLOSED;
	health->evacuating += state == GROUP_EVACUATE;
	health->narrow += columns < header->code_k + header->code_m;
	if (health->width_min == 0 || columns < health->width_min)
		health->width_min = columns;
	for (unsigned p = 0; p < columns; p++) {
		const struct catalog_column *column = &group->columns[p];

		if (atomic_load(&column->lost))
			health->lost++;
		else if (atomic_load(&column_node(watched, column)->state) != NODE_UP)
			health->unwell++;
		health->moving += atomic_load(&column->repair) != 0;
	}
}

void watched_health(const struct watched *watched, struct health *health)
{
	unsigned count = groups_count(watched);

	memset(health, 0, sizeof *health);
	for (unsigned g = 0; g < count; g++)
		if (group_holds(&watched->catalog.groups[g]))
			health_add_group(watched, &watched->catalog.groups[g], health);
}

bool health_whole(const struct health *health)
{
	return health->lost == 0 && health->moving == 0 && health->unwell == 0;
}

/* Columns of the group out of order, `name` among them. */
static unsigned group_out(const struct watched *watched, const struct catalog_group *group,
	const char *name, watched_out out, void *context)
{
	unsigned count = 0;

	for (unsigned p = 0; p < group_columns(group); p++) {
		const struct catalog_column *column = &group->columns[p];
		const struct catalog_node *node = column_node(watched, column);

		count += atomic_load(&column->lost) || atomic_load(&node->state) != NODE_UP ||
			 (out && out(context, node->name)) ||
			 (name && strcmp(node->name, name) == 0);
	}
	return count;
}

bool watched_bears(const struct watched *watched, const char *name, watched_out out, void *context,
	const uint8_t *flips)
{
	unsigned count = groups_count(watched);

	for (unsigned g = 0; g < count; g++) {
		const struct catalog_group *group = &watched->catalog.groups[g];

		if (!group_holds(group))
			continue;
		if (group_out(watched, group, name, out, context) + (flips ? flips[g] : 0) >
			group->m)
			return false;
	}
	return true;
}

unsigned watched_columns_on(const struct watched *watched, uint64_t incarnation)
{
	unsigned count = groups_count(watched), found = 0;

	for (unsigned g = 0; g < count; g++) {
		const struct catalog_group *group = &watched->catalog.groups[g];

		if (!group_holds(group))
			continue;
		for (unsigned p = 0; p < group_columns(group); p++)
			found += column_node(watched, &group->columns[p])->incarnation ==
				 incarnation;
	}
	return found;
}

uint64_t watched_incarnation(const struct watched *watched, const char *name)
{
	uint32_t count = atomic_load(&watched->catalog.header->nodes_count);
	uint64_t incarnation = 0;

	for (uint32_t i = 0; i < count && i < CATALOG_NODES_MAX; i++) {
		const struct catalog_node *node = &watched->catalog.nodes[i];
		uint32_t state = atomic_load(&node->state);

		if (state != NODE_NONE && state != NODE_DOWN && strcmp(node->name, name) == 0)
			incarnation = node->incarnation;
	}
	return incarnation;
}

bool watched_believes_in(const struct watched *watched, uint64_t incarnation)
{
	uint32_t count = atomic_load(&watched->catalog.header->nodes_count);

	for (uint32_t i = 0; i < count && i < CATALOG_NODES_MAX; i++) {
		const struct catalog_node *node = &watched->catalog.nodes[i];
		uint32_t state = atomic_load(&node->state);

		if (state != NODE_NONE && state != NODE_DOWN && node->incarnation == incarnation)
			return true;
	}
	return false;
}

uint64_t watched_counter(const struct watched *watched, const char *name)
{
	for (unsigned i = 0; i < stats_numbers_count; i++)
		if (strcmp(stats_numbers[i].name, name) == 0)
			return stats_number(watched->catalog.stats, i);
	return 0;
}

/* ---- flips ---- */

/* Of the region behind the descriptor: the slot's page, when it has this checksum. */
static uint8_t *flip_page(int fd, uint32_t slot, uint32_t crc)
{
	off_t bytes = lseek(fd, 0, SEEK_END), at = (off_t)slot * FM_PAGE_SIZE;
	uint8_t *page;

	if (at + FM_PAGE_SIZE > bytes)
		return NULL;
	page = mmap(NULL, FM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
	if (page == MAP_FAILED)
		return NULL;
	if (crc32c(page, FM_PAGE_SIZE) == crc)
		return page;
	munmap(page, FM_PAGE_SIZE);
	return NULL;
}

/* Wrongs a byte of the slot, when exactly one region of the process has it with this checksum. */
static bool flip_in_process(pid_t pid, uint32_t slot, uint32_t crc, uint64_t random)
{
	uint8_t *found = NULL;
	bool unique = true;
	char path[64];
	long from = 0;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	while (unique && (fd = memfd_open(path, "farmem-region", &from)) >= 0) {
		uint8_t *page = flip_page(fd, slot, crc);

		close(fd);
		unique = !page || !found;
		if (page && found)
			munmap(page, FM_PAGE_SIZE);
		else if (page)
			found = page;
	}
	if (!found)
		return false;
	if (unique)
		found[random % FM_PAGE_SIZE] ^= (uint8_t)(1u << (random >> 13 & 7));
	munmap(found, FM_PAGE_SIZE);
	return unique;
}

static bool flip_choose(const struct watched *watched, uint64_t random, struct flip *flip)
{
	uint32_t used = atomic_load(&watched->catalog.header->records_used);
	struct record record;
	uint64_t header;

	if (used == 0)
		return false;
	flip->ssid = (uint32_t)(random % used);
	record = record_in(&watched->catalog, (struct ssid){flip->ssid});
	header = record_load(record);
	flip->group = record_hdr_group(header);
	if (record_hdr_state(header) != RECORD_STABLE || flip->group >= groups_count(watched))
		return false;
	flip->record_gen = (uint32_t)(header >> RECORD_GEN_SHIFT) & 0xffff;
	flip->position =
		(uint32_t)(random >> 32) % group_columns(&watched->catalog.groups[flip->group]);
	flip->slot = record_slot(record, flip->position);
	return record_load(record) == header;
}

int watched_flip(const struct watched *watched, uint64_t random, watched_node_pid pid_of,
	bool (*fit)(void *context, uint32_t group), void *context, struct flip *flip)
{
	for (unsigned i = 0; i < FLIP_TRIES; i++) {
		const struct catalog_column *column;
		uint32_t crc;
		pid_t pid;

		random = random * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
		if (!flip_choose(watched, random >> 7, flip) || (fit && !fit(context, flip->group)))
			continue;
		column = &watched->catalog.groups[flip->group].columns[flip->position];
		if (atomic_load(&column->lost) || atomic_load(&column->repair))
			continue;
		flip->generation = atomic_load(&column->generation);
		snprintf(flip->node, sizeof flip->node, "%s", column_node(watched, column)->name);
		crc = record_crc(
			record_in(&watched->catalog, (struct ssid){flip->ssid}), flip->position);
		pid = pid_of(context, flip->node);
		if (pid > 0 && flip_in_process(pid, flip->slot, crc, random))
			return 0;
	}
	return -EAGAIN;
}

bool watched_flip_stays(const struct watched *watched, const struct flip *flip)
{
	struct record record = record_in(&watched->catalog, (struct ssid){flip->ssid});
	const struct catalog_column *column =
		&watched->catalog.groups[flip->group].columns[flip->position];
	uint64_t header = record_load(record);
	enum record_state state = record_hdr_state(header);

	return (state == RECORD_STABLE || state == RECORD_CLAIMED) &&
	       ((uint32_t)(header >> RECORD_GEN_SHIFT) & 0xffff) == flip->record_gen &&
	       record_slot(record, flip->position) == flip->slot && !atomic_load(&column->lost) &&
	       atomic_load(&column->generation) == flip->generation;
}
