/*
 * base/ids.h: ids and indexes as one-field structs, so that the compiler tells them apart.
 * `v` is the value. A value of all ones means "none".
 */
#ifndef FM_BASE_IDS_H
#define FM_BASE_IDS_H

#include <stdbool.h>
#include <stdint.h>

#define FM_ID_TYPE(name, type)                                                                     \
	struct name {                                                                              \
		type v;                                                                            \
	};                                                                                         \
	static inline struct name name##_make(uint64_t v)                                          \
	{                                                                                          \
		return (struct name){(type)v};                                                     \
	}                                                                                          \
	static inline struct name name##_none(void)                                                \
	{                                                                                          \
		return (struct name){(type) ~(type)0};                                             \
	}                                                                                          \
	static inline bool name##_is_none(struct name id)                                          \
	{                                                                                          \
		return id.v == (type) ~(type)0;                                                    \
	}                                                                                          \
	static inline bool name##_equal(struct name a, struct name b)                              \
	{                                                                                          \
		return a.v == b.v;                                                                 \
	}

FM_ID_TYPE(page_id, uint32_t)  /* index of a 4 KiB page of the far-capable range */
FM_ID_TYPE(ssid, uint32_t)     /* spanset: index of its record */
FM_ID_TYPE(group_id, uint32_t) /* index of a group; 20 bits in a record */
FM_ID_TYPE(slot_id, uint32_t)  /* span-sized place in a region; 20 bits */
FM_ID_TYPE(node_id, uint16_t)  /* index of a memory node in the catalog */

#endif
