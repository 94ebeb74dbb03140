#!/bin/bash
# repair.sh TRANSPORT rounds|agent|drain|stopped|narrow|foreign: lost redundancy comes back by itself, while the
# program goes on; leaving nodes cost none of it; a lost agent costs nothing.
. "$(dirname "$0")/lib.sh"
e2e_begin 100 "$@"
WHAT=$2
. "$E2E_DIR/repair_lib.sh"
MORE_FLAGS=(--region-size 16M)

begin() { # MB
	nodes_start
	puppet_start far
	ask_for "fill $1" "filled [0-9]+" 90
	BLOCKS=${ANSWER#filled }
	ask_for "check" "checked $BLOCKS" 90
}

end() {
	ask_for "churn 50" "churned" 90
	ask_for "check" "checked $BLOCKS" 90
	puppet_end || fail "the puppet ended with status $?"
	went_far far
}

# One node after another dies, five in all where two may: each time redundancy comes back before the next one.
rounds() {
	local victim
	begin 60
	for victim in 0 1 2 3 4; do
		tell check
		strike_node $victim
		say "killed node $victim"
		answered "checked $BLOCKS"
		ask_for "churn 20" "churned" 90
		whole 30 "$STRUCK"
		[ "$TRANSPORT" = tcp ] && node_start $victim
	done
	[ "$(count_of repaired_columns)" -ge 5 ] || fail "only $(count_of repaired_columns) columns were rebuilt"
	end
	stat_above "$T/far.stats" degraded_reads 0
}

# A node dies, and then, while its columns are being rebuilt, the agent's worker; the next time the supervisor.
agent() {
	local part victim=0 pid
	# A region reserved for an agent that died before it heard of it is given back by the node, in time.
	# An embedded one does so after its usual 15 s of silence, and the agent waits for it.
	NODE_FLAGS=(--keepalive 3s --orphan-keep 6s) E2E_END_SECONDS=60
	begin 90
	for part in worker supervisor worker supervisor; do
		pid=$(agent_pid $part) || fail "the agent has no $part"
		tell check
		strike_node $victim
		"$WATCH" moving 20 "$FAR_PID" >/dev/null || fail "no repair began"
		kill -9 "$pid"
		say "killed node $victim, then in mid-repair the agent's $part"
		answered "checked $BLOCKS"
		ask_for "churn 20" "churned" 90
		whole 40 "$STRUCK"
		[ "$TRANSPORT" = tcp ] && node_start $victim
		victim=$((victim + 1))
	done
	end
}

# drained N: waits until nothing is left on it, and that no read was degraded by that.
drained() {
	whole 40 "$1"
	[ "$(count_of degraded_reads)" = "$DEGRADED" ] ||
		fail "$(($(count_of degraded_reads) - DEGRADED)) reads were degraded by a drain"
}

# A node is asked to leave, by `farmem drain` and (tcp) by SIGTERM. No read becomes degraded.
drain() {
	begin 60
	DEGRADED=$(count_of degraded_reads)
	local was
	was=$(node_incarnation 1)
	tell check
	timeout 60 "$FM_BUILD/farmem" drain "$(node_name 1)" >"$T/drain.out" 2>&1 ||
		fail "farmem drain: status $?: $(tail -n 1 "$T/drain.out")"
	drained "$was"
	answered "checked $BLOCKS"
	[ "$(count_of drained_columns)" -gt 0 ] || fail "no column was moved"
	say "drain: $(tail -n 1 "$T/drain.out")"
	# Cancelled, it is taken into use again.
	timeout 30 "$FM_BUILD/farmem" drain --cancel "$(node_name 1)" >>"$T/drain.out" 2>&1 ||
		fail "farmem drain --cancel: status $?: $(tail -n 1 "$T/drain.out")"
	if [ "$TRANSPORT" = tcp ]; then
		was=$(node_incarnation 2)
		tell check
		node_stop_slow 2
		drained "$was"
		answered "checked $BLOCKS"
	fi
	ask_for "check" "checked $BLOCKS" 90
	drained "$was"
	end
	stat_zero "$T/far.stats" lost_pages
}

# SIGTERM to a node that holds something: it stays until that has moved, then ends with status 0.
node_stop_slow() {
	kill -TERM "${NODE_PID[$1]}" || fail "node $1 died unasked"
	"$TOOL" await 50 "${NODE_PID[$1]}" || fail "node $1 did not leave within 50 s of SIGTERM"
	wait "${NODE_PID[$1]}"
	local status=$?
	[ $status = 0 ] || fail "node $1 ended with status $status on SIGTERM"
	NODE_PID[$1]=
	say "node $1 left on SIGTERM"
}

# A program that stands still keeps its leases, though its nodes call a client silent after a second and keep its
# bytes for only two more, and though the agent's worker is killed meanwhile.
stopped() {
	local lost
	NODE_FLAGS=(--keepalive 1s --orphan-keep 2s)
	begin 60
	DEGRADED=$(count_of degraded_reads)
	kill -STOP "$FAR_PID"
	agent_kill worker
	lost=$("$TOOL" await 6 "$FAR_PID") && fail "the stopped program ended: $lost"
	kill -CONT "$FAR_PID"
	whole 20
	[ "$(count_of repaired_columns)" = 0 ] || fail "something had been lost: $(count_of repaired_columns) columns"
	ask_for "check" "checked $BLOCKS" 90
	[ "$(count_of degraded_reads)" = "$DEGRADED" ] || fail "reads were degraded"
	end
}

# Six hosts at 4+2: when one is gone for good everything moves to narrower groups; when it is back, to wide ones.
narrow() {
	NODES_COUNT=6
	begin 60
	tell check
	strike_node 5
	answered "checked $BLOCKS"
	whole 40 "$STRUCK"
	say "$("$WATCH" state "$FAR_PID")"
	[ "$(state_of width_min)" = 5 ] || fail "groups of $(state_of width_min) columns, not 5"
	ask_for "check" "checked $BLOCKS" 90
	node_start 5
	"$WATCH" wide 40 "$FAR_PID" 6 >/dev/null || fail "not back to wide groups"
	say "$("$WATCH" state "$FAR_PID")"
	# Two more deaths are borne again.
	strike_node 0
	strike_node 1
	end
}

state_of() { "$WATCH" state "$FAR_PID" | grep -o -E "\\b$1=[0-9]+" | cut -d= -f2; }

# A node that was restarted, on the same ports, knows nobody; nor does it know forged capabilities.
foreign() {
	NODES_COUNT=6
	need_built tests/e2e_foreign
	begin 40
	mkfifo "$T/foreign.in" "$T/foreign.answers"
	"$FM_BUILD/tests/e2e_foreign" "${NODE_PORT[3]}" "${NODE_DATA_PORT[3]}" <"$T/foreign.in" \
		>"$T/foreign.answers" 2>"$T/foreign.err" &
	local line in out
	exec {in}>"$T/foreign.in" {out}<"$T/foreign.answers"
	read -r -t 20 -u "$out" line && [ "$line" = stored ] || fail "foreign: $(cat "$T/foreign.err")"
	strike_node 3
	node_start 3 --data-listen "127.0.0.1:${NODE_DATA_PORT[3]}"
	echo >&"$in"
	read -r -t 30 -u "$out" line || fail "foreign: $(cat "$T/foreign.err")"
	[[ $line =~ ^refused\ [0-9]+$ ]] || fail "foreign: $line"
	say "foreign: $line"
	exec {in}>&- {out}<&-
	# The program's own column there was lost with the restart, and comes back.
	ask_for "check" "checked $BLOCKS" 90
	whole 40 "$STRUCK"
	end
}

case $WHAT in
rounds | agent | drain | stopped | narrow | foreign) $WHAT ;;
*) fail "what is '$WHAT'?" ;;
esac
e2e_end
