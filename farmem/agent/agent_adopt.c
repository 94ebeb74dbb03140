/*
 * farmem/agent/agent_adopt.c: what an earlier worker or agent left behind becomes ours again.
 *
 * Two sources. The tree's table (DIR/agent.nodes, written by workers only) says which nodes there
 * are and what their indexes mean, and what is remembered of members. The catalogs say which groups
 * a program has. A catalog is the program's to write, so nothing in it may harm anybody else: it is
 * checked against the table, and refused when it contradicts it.
 *
 * Callers: agent_runtime.c (a runtime was held for us, or says HELLO: the same path; to a program's
 * first HELLO there is nothing to adopt), agent_nodes.c (table_seal).
 *
 * Invariants
 *   1. An index means the same incarnation in the table and in every catalog, for the life of the
 *      tree. Only when the table was lost does a catalog fill it: the first one that comes.
 *   2. A node that was UP stays UP until it is asked, which is at once: a restart of ours degrades
 *      no read. A keepalive that finds another incarnation takes it down.
 *   3. Whatever a predecessor had begun to make known is made known again: nodes that are down,
 *      columns lost with them, a group that was filled but not counted. Repeats change nothing.
 *   4. Leases that no catalog names are nobody's: the nodes revoke them (memnode/lease.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/agent/column.h"

#define TABLE_MAGIC 0x656c6261746d6661ull
#define TABLE_VERSION 1u

/* ---- the table ---- */

static bool text_good(const char *text, size_t size)
{
	return text[0] != '\0' && memchr(text, '\0', size) != NULL;
}

static bool node_good(const struct agent_node *node, unsigned index)
{
	return node->incarnation != 0 && node->state >= NODE_UP && node->state <= NODE_DOWN &&
	       node->host <= index && node->member < AGENT_MEMBERS_MAX &&
	       text_good(node->name, sizeof node->name) &&
	       text_good(node->endpoint, sizeof node->endpoint) &&
	       text_good(node->host_id, sizeof node->host_id);
}

static bool table_good(const struct agent_table *table)
{
	unsigned count = atomic_load_explicit(&table->nodes_count, memory_order_acquire);
	if (table->magic != TABLE_MAGIC || table->version != TABLE_VERSION ||
		table->bytes != sizeof *table || count > CATALOG_NODES_MAX ||
		memchr(table->config, '\0', sizeof table->config) == NULL)
		return false;
	for (unsigned i = 0; i < count; i++)
		if (!node_good(&table->nodes[i], i))
			return false;
	return true;
}

int table_open(const char *dir, struct agent_table **table)
{
	char path[MAILBOX_TREE_DIR_MAX + 16];
	snprintf(path, sizeof path, "%s/" AGENT_TABLE_NAME, dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	/* All of it is there from the start: a full file system must not be met later. */
	int error = -posix_fallocate(fd, 0, sizeof **table);
	if (error == 0) {
		void *map = mmap(NULL, sizeof **table, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		error = map == MAP_FAILED ? -errno : 0;
		*table = error == 0 ? map : NULL;
	}
	close(fd);
	if (error != 0 || table_good(*table))
		return error;
	if ((*table)->magic != 0)
		log_warn("agent: %s is of no use: begun anew", path);
	memset(*table, 0, sizeof **table);
	(*table)->version = TABLE_VERSION;
	(*table)->bytes = sizeof **table;
	(*table)->magic = TABLE_MAGIC;
	return 0;
}

void table_seal(struct agent *agent)
{
	atomic_store_explicit(&agent->table->nodes_count, agent->nodes_count, memory_order_release);
}

void table_save(struct agent *agent)
{
	for (unsigned i = 0; i < agent->members_count; i++) {
		const struct agent_member *member = &agent->members[i];
		struct agent_memory *memory = &agent->table->members[i];
		memory->drain_asked = member->drain_asked;
		memory->said = member->said;
		memory->deaths = member->deaths;
		memcpy(memory->flaps_ns, member->flaps_ns, sizeof memory->flaps_ns);
		memory->flaps_count = member->flaps_count;
		memory->quarantines = member->quarantines;
		memory->quarantined_until_ns = member->quarantined_until_ns;
		memory->load = member->load;
	}
}

static void member_remember(struct agent_member *member)
{
	const struct agent_memory *memory = &member->agent->table->members[member->index];
	member->drain_asked = memory->drain_asked;
	member->said = memory->said;
	member->deaths = memory->deaths;
	memcpy(member->flaps_ns, memory->flaps_ns, sizeof member->flaps_ns);
	member->flaps_count = FM_MIN(memory->flaps_count, (unsigned)AGENT_FLAPS_MAX);
	member->quarantines = memory->quarantines;
	member->quarantined_until_ns = memory->quarantined_until_ns;
	member->load = memory->load;
}

/* ---- nodes ---- */

/* Invariant 1, the table lost: what a catalog says, as far as it can be said by one. */
static int nodes_take(struct agent *agent, const struct catalog *catalog, unsigned count)
{
	static struct agent_node nodes[CATALOG_NODES_MAX];
	memset(nodes, 0, sizeof nodes);
	for (unsigned i = 0; i < count; i++) {
		const struct catalog_node *entry = &catalog->nodes[i];
		struct agent_node *node = &nodes[i];
		node->state = atomic_load_explicit(&entry->state, memory_order_acquire);
		node->host = entry->host;
		node->incarnation = entry->incarnation;
		node->down_since_ns =
			atomic_load_explicit(&entry->down_since_ns, memory_order_relaxed);
		memcpy(node->name, entry->name, sizeof node->name);
		memcpy(node->endpoint, entry->endpoint, sizeof node->endpoint);
		/* An embedded node's host has its name; another's is found out when it joins. */
		snprintf(node->host_id, sizeof node->host_id, "%.*s", CTL_NAME_BYTES - 1,
			entry->name);
		if (!node_good(node, i))
			return -EPROTO;
	}
	memcpy(agent->nodes, nodes, count * sizeof nodes[0]);
	agent->nodes_count = count;
	table_seal(agent);
	log_warn("agent: the table of nodes was lost: %u taken from a catalog", count);
	return 0;
}

static int adopt_nodes(struct agent *agent, const struct catalog *catalog)
{
	unsigned count = atomic_load_explicit(&catalog->header->nodes_count, memory_order_acquire);
	if (count > CATALOG_NODES_MAX)
		return -EPROTO;
	if (agent->nodes_count == 0 && count > 0 && !agent->begun)
		return nodes_take(agent, catalog, count);
	if (count > agent->nodes_count)
		return -EPROTO;
	for (unsigned i = 0; i < count; i++)
		if (catalog->nodes[i].incarnation != agent->nodes[i].incarnation)
			return -EPROTO;
	return 0;
}

/* A name says which member, where the membership's order may have changed. */
static struct agent_member *member_named(struct agent *agent, const struct agent_node *node)
{
	if (node->member < agent->members_count &&
		strcmp(agent->members[node->member].name, node->name) == 0)
		return &agent->members[node->member];
	for (unsigned i = 0; i < agent->members_count; i++)
		if (strcmp(agent->members[i].name, node->name) == 0)
			return &agent->members[i];
	return NULL;
}

static void node_unclaimed(struct agent_node *node)
{
	log_warn("agent: node=%s is no member any more", node->name);
	node->state = NODE_DOWN;
	node->down_since_ns = agent_realtime_ns();
}

void adopt_members(struct agent *agent)
{
	for (unsigned i = 0; i < agent->members_count; i++)
		member_remember(&agent->members[i]);
	for (unsigned i = 0; i < agent->nodes_count; i++) {
		struct agent_node *node = &agent->nodes[i];
		struct agent_member *member = member_named(agent, node);
		if (member != NULL)
			node->member = member->index;
		if (node->state == NODE_DOWN)
			continue;
		if (member == NULL || member->node >= 0) {
			node_unclaimed(node);
			continue;
		}
		member->node = (int)i;
		member->state = node->state == NODE_UP ? MEMBER_UP : MEMBER_SUSPECT;
		AGENT_DIE("adopt.member");
		if (agent->embedded && !member->process_running && !member->adopting)
			node_down(member, "its process ended while no agent was there");
		else
			node_check(member);
	}
}

/* ---- groups ---- */

/* A place that no node of ours can have lent is not trusted: the column is lost. */
static bool place_good(const struct agent *agent, const struct catalog_place *place)
{
	return place->node < agent->nodes_count && place->capability.lease != 0 &&
	       place->capability.incarnation == agent->nodes[place->node].incarnation;
}

static void adopt_column(
	struct agent_runtime *runtime, struct agent_group *group, unsigned index, unsigned position)
{
	struct agent *agent = runtime->source.agent;
	struct catalog_column *entry = &runtime->catalog.groups[index].columns[position];
	struct agent_column *column = &group->columns[position];
	const struct catalog_place place = *catalog_cur(entry);
	column->lost = atomic_load_explicit(&entry->lost, memory_order_acquire) != 0;
	column->capability = place.capability;
	column->node = place.node;
	if (place_good(agent, &place)) {
		if (position >= group->k)
			agent->members[agent->nodes[place.node].member].parity_count++;
		return;
	}
	column->node = 0; /* within bounds; nothing is asked of a lost column's node */
	column->lost = true;
	if (!group->retired)
		column_lose(&runtime->catalog, index, position);
}

static int adopt_group(struct agent_runtime *runtime, struct agent_group *group, unsigned index)
{
	const struct catalog_group *entry = &runtime->catalog.groups[index];
	const uint32_t state = atomic_load_explicit(&entry->state, memory_order_acquire);
	const uint8_t k = entry->k, m = entry->m;
	if (state < GROUP_OPEN || state > GROUP_RETIRED || k < 1 || k > runtime->wish.k ||
		m > runtime->wish.m || entry->slot_count > CATALOG_SLOTS_MAX)
		return -EPROTO;
	memset(group, 0, sizeof *group);
	group->k = k;
	group->m = m;
	group->retired = state == GROUP_RETIRED;
	for (unsigned p = 0; p < (unsigned)k + m; p++)
		adopt_column(runtime, group, index, p);
	runtime->said_k = k;
	runtime->said_m = m;
	return 0;
}

/* How many there are; the one that was filled and not counted (invariant 3) is counted. */
static unsigned groups_counted(struct catalog *catalog)
{
	uint32_t count = atomic_load_explicit(&catalog->header->groups_count, memory_order_acquire);
	if (count < CATALOG_GROUPS_MAX && atomic_load_explicit(&catalog->groups[count].state,
						  memory_order_acquire) == GROUP_OPEN)
		atomic_store_explicit(
			&catalog->header->groups_count, ++count, memory_order_release);
	return FM_MIN(count, (uint32_t)CATALOG_GROUPS_MAX);
}

static int adopt_groups(struct agent_runtime *runtime)
{
	unsigned count = groups_counted(&runtime->catalog);
	if (count == 0)
		return 0;
	runtime->groups = calloc(FM_MAX(64u, count), sizeof *runtime->groups);
	if (runtime->groups == NULL)
		return -ENOMEM;
	runtime->groups_capacity = FM_MAX(64u, count);
	for (unsigned g = 0; g < count; g++) {
		int error = adopt_group(runtime, &runtime->groups[g], g);
		if (error != 0)
			return error;
		AGENT_DIE("adopt.group");
	}
	runtime->groups_count = count;
	runtime->source.agent->placement += count;
	return 0;
}

static int adopt_client(struct agent_runtime *runtime)
{
	static const uint8_t none[CTL_CLIENT_BYTES];
	uint8_t *client = runtime->catalog.header->client;
	if (memcmp(client, none, sizeof none) == 0 &&
		getrandom(client, CTL_CLIENT_BYTES, 0) != CTL_CLIENT_BYTES)
		return -EIO;
	memcpy(runtime->client, client, CTL_CLIENT_BYTES);
	return 0;
}

int adopt_catalog(struct agent_runtime *runtime)
{
	const struct catalog_header *header = runtime->catalog.header;
	int error = adopt_nodes(runtime->source.agent, &runtime->catalog);
	if (error == 0)
		error = adopt_client(runtime);
	if (error == 0)
		error = adopt_groups(runtime);
	runtime->full = atomic_load_explicit(&header->agent_state, memory_order_acquire) == 2;
	return error;
}

/* ---- what is shown again ---- */

void adopt_show(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	bool suspect[CATALOG_NODES_MAX];
	for (unsigned i = 0; i < agent->nodes_count; i++)
		suspect[i] = atomic_load_explicit(&runtime->catalog.nodes[i].state,
				     memory_order_acquire) == NODE_SUSPECT;
	nodes_show(agent, runtime);
	/* What the runtime itself found out is asked about first (node_check). */
	for (unsigned i = 0; i < agent->nodes_count; i++) {
		uint32_t up = NODE_UP;
		if (!suspect[i] || agent->nodes[i].state != NODE_UP)
			continue;
		(void)atomic_compare_exchange_strong_explicit(&runtime->catalog.nodes[i].state, &up,
			NODE_SUSPECT, memory_order_acq_rel, memory_order_relaxed);
		node_check(&agent->members[agent->nodes[i].member]);
	}
	AGENT_DIE("adopt.shown");
	repair_adopt(runtime);
	AGENT_DIE("adopt.repairs");
	for (unsigned i = 0; i < agent->nodes_count; i++)
		if (agent->nodes[i].state == NODE_DOWN)
			(void)groups_lose(runtime, i);
}
