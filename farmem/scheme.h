/*
 * farmem/scheme.h: what the scheme (base/config.h, DESIGN section 8) makes of a group: how large
 * its slots are, how many pages a spanset holds, how many groups are written to in turn.
 *
 * Used by whoever turns slot numbers into bytes: slot.c, lane.c, spanset*.c, repack.c, the agent.
 *
 *   scheme          group   slot      spanset             a page is read from
 *   batch-*         k+m     page      k pages, m parities its slot
 *   none            1+0     page      a page              its slot
 *   replicate       1+m     page      a page, m copies    its slot, or any copy
 *   split           k+m     page/k    k pieces of a page, any k slots: the data pieces while they
 *                                     m parities of them  are there
 *
 * Under `split` owner[0] names the page, other owners are fillers, and only bit 0 of `live` is ever
 * set: to whoever goes by words and references it is a spanset with one data position.
 */
#ifndef FM_FARMEM_SCHEME_H
#define FM_FARMEM_SCHEME_H

#include "farmem/core.h"

static inline bool scheme_splits(const struct catalog *catalog)
{
	return catalog->header->scheme == SCHEME_SPLIT;
}

/* Bytes of a slot; 0 for a group without a code that fits (what another process wrote). */
static inline uint32_t scheme_slot_bytes(
	const struct catalog *catalog, const struct catalog_group *g)
{
	if (fm_likely(!scheme_splits(catalog)))
		return FM_PAGE_SIZE;
	return g->k > 0 && FM_PAGE_SIZE % g->k == 0 ? (uint32_t)FM_PAGE_SIZE / g->k : 0;
}

/* Data pages that a spanset of the group holds. */
static inline unsigned scheme_set_pages(
	const struct catalog *catalog, const struct catalog_group *g)
{
	return scheme_splits(catalog) ? 1 : g->k;
}

/*
 * Groups that batches go to in turn: a group of one column has one node's speed, and the pages of a
 * coded one are spread over k + m. So that all schemes load equally many.
 */
static inline uint32_t scheme_spread(const struct core *core)
{
	const struct catalog_header *h = core->catalog.header;
	const struct option_code *code = &core->config.code;
	return FM_MAX((code->k + code->m) / (h->code_k + h->code_m), 1u);
}

#endif
