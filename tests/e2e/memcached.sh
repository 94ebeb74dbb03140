#!/bin/bash
# memcached with values of known content, a third of them changed each round, all of them read back.
. "$(dirname "$0")/lib.sh"
e2e_begin 180 "$@"
need memcached
ITEMS=60000
[ "$TRANSPORT" = shm ] || ITEMS=40000
nodes_start
start_far memcached memcached -u root -m 1024 -t 2 -s "$T/memcached.sock" -vv
wait_line 30 "$T/memcached.err" 'server listening'
timeout 120 "$FM_BUILD/tests/e2e_memcached_check" "$T/memcached.sock" $ITEMS 1000 4 >"$T/check.out" \
	2>"$T/check.err" || fail "the content check ended with status $?"
kill -TERM "$FAR_PID"
end_far 30 || fail "memcached ended with status $? on SIGTERM"
went_far memcached
e2e_end
