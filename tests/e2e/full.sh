#!/bin/bash
# full.sh tcp local|kill|wait|resume: no node can lend any more. Nothing that is far is lost, whatever the user chose.
# The puppet asks for 200 MB; the nodes can hold 64 MB of data (six regions of 16 MB at 4+2). "resume": wait, and
# then nodes come.
. "$(dirname "$0")/lib.sh"
NODES_COUNT=6
NODE_MEMORY=16M
e2e_begin 150 "$@"
HOW=$2
nodes_start
if [ "$HOW" = resume ]; then
	mapfile -t ports < <("$TOOL" ports 6)
	NODE_PORT+=("${ports[@]}")
	nodes_list
fi
LOCAL=32M
MORE_FLAGS=(--on-full "${HOW/resume/wait}" --region-size 16M)
puppet_start far
ask_for "fill 60" "filled [0-9]+" 90
ask_for "check" "checked 629" 90

case $HOW in
local)
	ask_for "fill 140" "filled 2097" 90
	ask_for "check" "checked 2097" 90
	puppet_end || fail "on-full local: status $?"
	grep -q -i -E 'full|lend|beyond' "$T/far.err" || fail "on-full local: nothing was said"
	went_far far
	;;
kill)
	try_ask "fill 140" 90 && fail "on-full kill: the puppet answered '$ANSWER'"
	puppet_end
	status=$?
	[ $status -gt 128 ] || fail "on-full kill: status $status is no signal"
	grep -q -i -E 'full|lend' "$T/far.err" || fail "on-full kill: nothing was said"
	;;
wait)
	# It stands still: found waiting, alive, and able to be ended.
	try_ask "fill 140" 20 && fail "on-full wait: the puppet answered '$ANSWER' with no memory to be had"
	kill -0 "$FAR_PID" || fail "on-full wait: the puppet died"
	grep -q -i -E 'full|lend|wait' "$T/far.err" || fail "on-full wait: nothing was said"
	kill -TERM "$FAR_PID"
	puppet_end
	[ $? = $((128 + 15)) ] || fail "on-full wait: SIGTERM did not end it"
	;;
resume)
	# Six more are in the list, and come up only now.
	tell "fill 140"
	wait_line 30 "$T/far.err" '[Ff]ull|lend|wait'
	read -r -t 2 -u "$PUPPET_OUT" ANSWER && fail "on-full wait: the puppet answered '$ANSWER' with no memory to be had"
	NODE_MEMORY=128M # enough also where the first four are taken into 2+2 groups before the rest is up
	for ((i = 6; i < 12; i++)); do node_start "$i"; done
	answered "filled 2097" 60
	ask_for "check" "checked 2097" 90
	puppet_end || fail "on-full wait: status $?"
	went_far far
	;;
*) fail "what is '$HOW'?" ;;
esac
e2e_end
