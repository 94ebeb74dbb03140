#!/bin/bash
# m + 1 nodes die: more than the code can bear. The access gets SIGBUS with a message that names the hosts; no byte
# is ever wrong. Exactly k + m nodes, so that every spanset has a column on each.
. "$(dirname "$0")/lib.sh"
NODES_COUNT=6
e2e_begin 180 "$@"
nodes_start
[ "$TRANSPORT" = shm ] && MORE_FLAGS=(--embedded-nodes 6)
puppet_start far
ask_for "fill 100" "filled [0-9]+" 90
ask_for "check" "checked 1048" 90
for victim in 0 1 2; do
	kill_a_node $victim
done
if try_ask check 90; then
	fail "the puppet answered '$ANSWER' with three of six nodes dead"
fi
puppet_end
status=$?
[ $status = $((128 + 7)) ] || fail "the puppet ended with status $status, not by SIGBUS"
grep -q "WRONG BYTES" "$T/far.err" && fail "wrong bytes were read"
grep -q -i 'lost' "$T/far.err" || fail "no message about the loss"
if [ "$TRANSPORT" = tcp ]; then
	for victim in 0 1 2; do
		grep -q "127.0.0.1:${NODE_PORT[victim]}" "$T/far.err" ||
			fail "the message does not name 127.0.0.1:${NODE_PORT[victim]}"
	done
else
	grep -q -E 'embedded-[0-9]' "$T/far.err" || fail "the message names no host"
fi
e2e_end
