/*
 * farmem/span_test.c: the span word keeps its fields apart, and only the exact word can be swapped.
 */
#include "base/test.h"

#include "farmem/span.h"

static const uint32_t ssids[] = {0, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
static const uint32_t gens[] = {0, 1, 0x7fff, 0x8000, 0xffff};

static void check_fields(enum span_state state, uint32_t flags, uint32_t gen, uint32_t pos)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(ssids); i++) {
		struct span_word w = span_at(span_make(state, flags, gen), ssids[i], pos);
		CHECK_EQ(span_state(w), state);
		CHECK_EQ(span_flags(w), flags);
		CHECK_EQ(span_gen(w), gen);
		CHECK_EQ(span_pos(w), pos);
		CHECK_EQ(span_ssid(w), ssids[i]);
	}
}

TEST(every_field_of_a_word_comes_back_whatever_the_others_are)
{
	for (unsigned state = SPAN_EMPTY; state <= SPAN_LOST; state++)
		for (uint32_t flags = 0; flags < 16; flags++)
			for (uint32_t pos = 0; pos < 32; pos++)
				for (unsigned i = 0; i < FM_ARRAY_COUNT(gens); i++)
					check_fields((enum span_state)state, flags, gens[i], pos);
}

TEST(a_turned_word_keeps_place_and_gen)
{
	struct span_word w = span_at(span_make(SPAN_FAR, 0, 77), 123456, 19);
	struct span_word turned = span_turned(w, SPAN_FETCHING, SPAN_SEALED);
	CHECK_EQ(span_state(turned), SPAN_FETCHING);
	CHECK_EQ(span_flags(turned), SPAN_SEALED);
	CHECK_EQ(span_gen(turned), 77);
	CHECK_EQ(span_ssid(turned), 123456);
	CHECK_EQ(span_pos(turned), 19);
	CHECK_EQ(span_turned(turned, SPAN_FAR, 0).v, w.v);
}

TEST(a_gen_beyond_16_bits_wraps_and_touches_nothing_else)
{
	struct span_word w = span_make(SPAN_EVICTING, SPAN_TAKING, 0xffff + 1);
	CHECK_EQ(span_gen(w), 0);
	CHECK_EQ(span_flags(w), SPAN_TAKING);
	CHECK_EQ(span_state(w), SPAN_EVICTING);
}

TEST(zeroed_tables_are_empty_words)
{
	struct span_word w = {0};
	CHECK_EQ(span_state(w), SPAN_EMPTY);
	CHECK_EQ(span_gen(w), 0);
}

TEST(far_and_near_with_has_far_hold_a_reference_and_nothing_else_does)
{
	for (unsigned state = SPAN_EMPTY; state <= SPAN_LOST; state++)
		for (uint32_t flags = 0; flags < 16; flags++) {
			struct span_word w = span_make((enum span_state)state, flags, 3);
			bool holds = state == SPAN_FAR ||
				     (state == SPAN_NEAR && (flags & SPAN_HAS_FAR) != 0);
			CHECK_EQ(span_holds_reference(w), holds);
		}
}

TEST(a_swap_takes_the_exact_word_only_also_when_nothing_but_gen_differs)
{
	static _Atomic uint64_t words[4];
	struct page_id page = {2};
	struct span_word old = span_make(SPAN_NEAR, 0, 4), new = span_make(SPAN_EVICTING, 0, 5);
	words[2] = old.v;
	CHECK(!span_swap(words, page, span_make(SPAN_NEAR, 0, 3), new));
	CHECK(!span_swap(words, page, span_make(SPAN_NEAR, SPAN_HOT, 4), new));
	CHECK_EQ(span_load(words, page).v, old.v);
	CHECK(span_swap(words, page, old, new));
	CHECK_EQ(span_load(words, page).v, new.v);
	CHECK_EQ(words[1] | words[3], 0);
}

TEST(every_state_has_a_name)
{
	for (unsigned state = SPAN_EMPTY; state <= SPAN_LOST; state++)
		CHECK(strlen(span_state_name((enum span_state)state)) >= 3);
	CHECK_STR_EQ(span_state_name((enum span_state)15), "?");
}
