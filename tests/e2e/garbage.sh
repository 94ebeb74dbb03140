#!/bin/bash
# Garbage, truncated and oversized frames at every port of every node while a client works: the client does not
# notice, no daemon dies, nothing leaks.
. "$(dirname "$0")/lib.sh"
e2e_begin 150 "$@"
nodes_start
puppet_start far
ask_for "fill 80" "filled [0-9]+" 90
declare -a throwers=()
for i in "${!NODE_PORT[@]}"; do
	"$TOOL" throw "${NODE_PORT[i]}" "$((i + 1))" 60 2>>"$T/throw.err" & throwers+=($!)
	"$TOOL" throw "${NODE_DATA_PORT[i]}" "$((i + 100))" 200 2>>"$T/throw.err" & throwers+=($!)
done
ask_for "check" "checked 838" 90
ask_for "churn 200" "churned" 90
for pid in "${throwers[@]}"; do
	wait "$pid" || fail "a daemon refused connections under garbage"
done
ask_for "check" "checked 838" 90
for i in "${!NODE_PID[@]}"; do
	kill -0 "${NODE_PID[i]}" || fail "node $i died of garbage"
	descriptors=$(ls "/proc/${NODE_PID[i]}/fd" | wc -l)
	[ "$descriptors" -lt 100 ] || fail "node $i holds $descriptors descriptors after garbage"
done
puppet_end || fail "the client ended with status $?"
went_far far
e2e_end
