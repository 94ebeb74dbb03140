/*
 * base/fault_point.c: the table of fault points.
 *
 * Places are found by name, so that a point may be armed before the first passage, and several
 * places may share a name (they then share its count). Entries are only ever added, under a lock; a
 * place keeps its entry's number in `registered` and takes no lock afterwards.
 */
#include "base/fault_point.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/options.h"

#define FAULT_ARMED 1u
#define FAULT_COUNTING 2u
#define FAULT_TABLE_FULL UINT32_MAX

struct fault_entry {
	struct fault_point point; /* name points to `name` */
	_Atomic uint64_t counted; /* passages while counting */
	char name[FAULT_NAME_MAX];
};

_Atomic uint32_t fault_points_on;

/* Made by the linker where there is any point at all. */
extern struct fault_point *const __start_fm_fault_points[] __attribute__((weak));
extern struct fault_point *const __stop_fm_fault_points[] __attribute__((weak));

static struct fault_entry fault_entries[FAULT_POINTS_MAX];
static _Atomic uint32_t fault_entries_count; /* release: pairs with the acquire of readers */
static _Atomic uint64_t fault_fired;
static atomic_flag fault_lock = ATOMIC_FLAG_INIT;

static void fault_take_lock(void)
{
	while (atomic_flag_test_and_set_explicit(&fault_lock, memory_order_acquire))
		sched_yield();
}

static void fault_drop_lock(void)
{
	atomic_flag_clear_explicit(&fault_lock, memory_order_release);
}

/* The name's entry, made if it is new; NULL when the table is full or the name too long. */
static struct fault_entry *fault_find(const char *name)
{
	uint32_t count, i;

	if (strlen(name) >= FAULT_NAME_MAX)
		return NULL;
	fault_take_lock();
	count = atomic_load_explicit(&fault_entries_count, memory_order_relaxed);
	for (i = 0; i < count && strcmp(fault_entries[i].name, name) != 0; i++)
		continue;
	if (i == count && count < FAULT_POINTS_MAX) {
		memcpy(fault_entries[i].name, name, strlen(name) + 1);
		fault_entries[i].point.name = fault_entries[i].name;
		atomic_store_explicit(&fault_entries_count, count + 1, memory_order_release);
	}
	fault_drop_lock();
	return i < FAULT_POINTS_MAX ? &fault_entries[i] : NULL;
}

/* The entry of a place; NULL when there was no room for its name. */
static struct fault_entry *fault_entry_of(struct fault_point *place)
{
	uint32_t number = atomic_load_explicit(&place->registered, memory_order_relaxed);
	struct fault_entry *entry;

	if (number == FAULT_TABLE_FULL)
		return NULL;
	if (number != 0)
		return &fault_entries[number - 1];
	entry = fault_find(place->name);
	number = entry == NULL ? FAULT_TABLE_FULL : (uint32_t)(entry - fault_entries) + 1;
	atomic_store_explicit(&place->registered, number, memory_order_relaxed);
	return entry;
}

bool fault_point_passed(struct fault_point *point)
{
	struct fault_entry *entry = fault_entry_of(point);
	uint64_t nth, fire_at;
	bool fires;

	if (entry == NULL)
		return false;
	if (atomic_load_explicit(&fault_points_on, memory_order_relaxed) & FAULT_COUNTING)
		atomic_fetch_add_explicit(&entry->counted, 1, memory_order_relaxed);
	nth = atomic_fetch_add_explicit(&entry->point.passed_count, 1, memory_order_relaxed) + 1;
	fire_at = atomic_load_explicit(&entry->point.fire_at, memory_order_acquire);
	if (fire_at == 0)
		return false;
	fires = nth == fire_at || (nth > fire_at && atomic_load_explicit(&entry->point.persistent,
							    memory_order_relaxed));
	if (fires)
		atomic_fetch_add_explicit(&fault_fired, 1, memory_order_relaxed);
	return fires;
}

int fault_arm(const char *name, uint64_t nth, bool persistent)
{
	struct fault_entry *entry;

	if (nth == 0 || nth > INT64_MAX || name[0] == '\0' || strlen(name) >= FAULT_NAME_MAX)
		return -EINVAL;
	entry = fault_find(name);
	if (entry == NULL)
		return -ENOENT;
	atomic_store_explicit(&entry->point.persistent, persistent, memory_order_relaxed);
	atomic_store_explicit(&entry->point.fire_at,
		atomic_load_explicit(&entry->point.passed_count, memory_order_relaxed) + nth,
		memory_order_release);
	atomic_fetch_or_explicit(&fault_points_on, FAULT_ARMED, memory_order_relaxed);
	return 0;
}

void fault_disarm_all(void)
{
	uint32_t count = atomic_load_explicit(&fault_entries_count, memory_order_acquire);

	for (uint32_t i = 0; i < count; i++)
		atomic_store_explicit(&fault_entries[i].point.fire_at, 0, memory_order_relaxed);
	atomic_store_explicit(&fault_fired, 0, memory_order_relaxed);
	atomic_fetch_and_explicit(&fault_points_on, ~FAULT_ARMED, memory_order_relaxed);
}

uint64_t fault_fired_count(void)
{
	return atomic_load_explicit(&fault_fired, memory_order_relaxed);
}

void fault_count_all(bool on)
{
	uint32_t count = atomic_load_explicit(&fault_entries_count, memory_order_acquire);

	if (!on) {
		atomic_fetch_and_explicit(&fault_points_on, ~FAULT_COUNTING, memory_order_relaxed);
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		atomic_store_explicit(&fault_entries[i].counted, 0, memory_order_relaxed);
	atomic_fetch_or_explicit(&fault_points_on, FAULT_COUNTING, memory_order_relaxed);
}

unsigned fault_list(const char **names, uint64_t *counts, unsigned max)
{
	uint32_t count = atomic_load_explicit(&fault_entries_count, memory_order_acquire);
	unsigned found = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t counted =
			atomic_load_explicit(&fault_entries[i].counted, memory_order_relaxed);

		if (counted == 0)
			continue;
		if (found < max) {
			names[found] = fault_entries[i].name;
			counts[found] = counted;
		}
		found++;
	}
	return found;
}

/* The first name that comes after `last`, or NULL. */
static const char *fault_next_linked(const char *last)
{
	const char *next = NULL;

	for (struct fault_point *const *at = __start_fm_fault_points; at != __stop_fm_fault_points;
		at++) {
		const char *name = (*at)->name;

		if (strcmp(name, last) > 0 && (next == NULL || strcmp(name, next) < 0))
			next = name;
	}
	return next;
}

unsigned fault_list_linked(const char **names, unsigned max)
{
	unsigned found = 0;

	for (const char *name = fault_next_linked(""); name != NULL;
		name = fault_next_linked(name)) {
		if (found < max)
			names[found] = name;
		found++;
	}
	return found;
}

/* Reads one "name=N[+]" of `length` bytes and arms it. 0 or -EINVAL. */
static int fault_arm_word(const char *word, size_t length)
{
	char copy[FAULT_NAME_MAX + 24];
	char *equals;
	uint64_t nth;
	bool persistent;

	if (length < 3 || length >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, word, length);
	copy[length] = '\0';
	equals = strchr(copy, '=');
	if (equals == NULL)
		return -EINVAL;
	*equals = '\0';
	persistent = copy[length - 1] == '+';
	if (persistent)
		copy[length - 1] = '\0';
	if (parse_count(equals + 1, &nth) != 0)
		return -EINVAL;
	return fault_arm(copy, nth, persistent) == 0 ? 0 : -EINVAL;
}

int fault_arm_from_text(const char *text)
{
	while (*text != '\0') {
		size_t length = strcspn(text, ",");

		if (fault_arm_word(text, length) != 0) {
			fault_disarm_all();
			return -EINVAL;
		}
		text += length;
		if (*text == ',')
			text++;
	}
	return 0;
}
