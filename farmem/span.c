/*
 * farmem/span.c: names of span states, for messages. The word itself is all inline in span.h.
 */
#include "farmem/span.h"

const char *span_state_name(enum span_state state)
{
	static const char *const names[] = {
		"EMPTY", "NEAR", "EVICTING", "DROPPING", "FAR", "FETCHING", "LOST"};
	return (unsigned)state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}
