/*
 * rpc/urpc_table.c: see rpc/urpc_table.h.
 */
#include "rpc/urpc_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

int urpc_table_open(struct urpc_table *table, uint32_t count_max, uint64_t first_id)
{
	uint64_t slots_count = 2;

	while (slots_count < 2ull * count_max)
		slots_count *= 2;
	*table = (struct urpc_table){.mask = slots_count - 1,
		.next_id = first_id,
		.oldest_id = first_id,
		.count_max = count_max};
	table->slots = calloc(slots_count, sizeof(*table->slots));
	table->due = calloc(count_max, sizeof(*table->due));
	if (table->slots != NULL && table->due != NULL)
		return 0;
	urpc_table_close(table);
	return -ENOMEM;
}

void urpc_table_close(struct urpc_table *table)
{
	free(table->slots);
	free(table->due);
	*table = (struct urpc_table){0};
}

struct urpc_slot *urpc_table_take(struct urpc_table *table)
{
	struct urpc_slot *slot;

	if (table->count == table->count_max)
		return NULL;
	while (table->next_id == 0 || table->slots[table->next_id & table->mask].id != 0)
		table->next_id++;
	slot = &table->slots[table->next_id & table->mask];
	memset(slot, 0, sizeof(*slot));
	slot->id = table->next_id++;
	slot->due_index = URPC_NO_INDEX;
	slot->finished_next = URPC_NO_INDEX;
	table->count++;
	return slot;
}

void urpc_table_free(struct urpc_table *table, struct urpc_slot *slot)
{
	FM_ASSERT_NE(slot->id, 0);
	urpc_table_disarm(table, slot);
	slot->id = 0;
	table->count--;
}

struct urpc_slot *urpc_table_find(struct urpc_table *table, uint64_t id)
{
	struct urpc_slot *slot = &table->slots[id & table->mask];

	return id != 0 && slot->id == id ? slot : NULL;
}

uint64_t urpc_table_oldest(struct urpc_table *table)
{
	if (table->count == 0)
		table->oldest_id = table->next_id;
	while (table->oldest_id != table->next_id &&
		table->slots[table->oldest_id & table->mask].id != table->oldest_id)
		table->oldest_id++;
	return table->oldest_id;
}

/* --- the heap --- */

static uint64_t due_at(const struct urpc_table *table, uint32_t place)
{
	return table->slots[table->due[place]].due_ns;
}

static void due_put(struct urpc_table *table, uint32_t place, uint32_t slot_index)
{
	table->due[place] = slot_index;
	table->slots[slot_index].due_index = place;
}

static void due_up(struct urpc_table *table, uint32_t place)
{
	uint32_t moved = table->due[place];

	while (place > 0 && due_at(table, (place - 1) / 2) > table->slots[moved].due_ns) {
		due_put(table, place, table->due[(place - 1) / 2]);
		place = (place - 1) / 2;
	}
	due_put(table, place, moved);
}

static void due_down(struct urpc_table *table, uint32_t place)
{
	uint32_t moved = table->due[place];

	for (;;) {
		uint32_t child = 2 * place + 1;

		if (child >= table->due_count)
			break;
		if (child + 1 < table->due_count && due_at(table, child + 1) < due_at(table, child))
			child++;
		if (due_at(table, child) >= table->slots[moved].due_ns)
			break;
		due_put(table, place, table->due[child]);
		place = child;
	}
	due_put(table, place, moved);
}

void urpc_table_arm(struct urpc_table *table, struct urpc_slot *slot, uint64_t due_ns)
{
	slot->due_ns = due_ns;
	if (slot->due_index == URPC_NO_INDEX) {
		FM_ASSERT_LT(table->due_count, table->count_max);
		due_put(table, table->due_count++, urpc_table_index(table, slot));
	}
	due_up(table, slot->due_index);
	due_down(table, slot->due_index);
}

void urpc_table_disarm(struct urpc_table *table, struct urpc_slot *slot)
{
	uint32_t place = slot->due_index;
	uint32_t last;

	if (place == URPC_NO_INDEX)
		return;
	slot->due_index = URPC_NO_INDEX;
	last = table->due[--table->due_count];
	if (place == table->due_count)
		return;
	due_put(table, place, last);
	due_up(table, place);
	due_down(table, table->slots[last].due_index);
}

struct urpc_slot *urpc_table_first_due(struct urpc_table *table)
{
	return table->due_count == 0 ? NULL : &table->slots[table->due[0]];
}
