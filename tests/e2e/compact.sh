#!/bin/bash
# compact.sh TRANSPORT plain|killed: spansets are made one while a program writes and reads, its bytes stay right and
# no slot gets lost; killed: also when a memory node and then the agent die in the middle of it.
. "$(dirname "$0")/lib.sh"
e2e_begin 100 "$@"
WHAT=$2
. "$E2E_DIR/repair_lib.sh"
MORE_FLAGS=(--compact remote --region-size 16M)
LAPS_MAX=60

# merged N: the program writes, and reads everything, until so many pairs more have become one.
merged() {
	local goal lap
	goal=$(($(count_of merged_pairs) + $1))
	for ((lap = 0; lap < LAPS_MAX; lap++)); do
		ask_for "churn 60" "churned" 60
		ask_for "check" "checked $BLOCKS" 60
		[ "$(count_of merged_pairs)" -ge "$goal" ] && break
	done
	[ "$lap" -lt "$LAPS_MAX" ] || fail "$LAPS_MAX laps, and only $(count_of merged_pairs) pairs made one, not $goal"
	say "$(count_of merged_pairs) pairs made one, $(count_of merge_aborts) transactions given up"
}

# Every slot accounted for, once.
conserved() {
	timeout 60 "$FM_BUILD/farmem" inspect "$FAR_PID" >"$T/inspect.out" 2>&1 ||
		fail "inspect: $(tail -n 3 "$T/inspect.out")"
}

nodes_start
puppet_start far
ask_for "fill 60" "filled [0-9]+" 90
BLOCKS=${ANSWER#filled }
merged 100
conserved
if [ "$WHAT" = killed ]; then
	tell check
	strike_node 1
	answered "checked $BLOCKS"
	merged 50
	tell check
	agent_kill worker
	answered "checked $BLOCKS"
	merged 50
	whole 30 "$STRUCK"
	conserved
fi
ask_for "check" "checked $BLOCKS" 90
puppet_end || fail "the puppet ended with status $?"
went_far far
stat_above "$T/far.stats" merge_freed_slots 0
e2e_end
