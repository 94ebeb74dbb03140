#!/bin/bash
# sort(1) of 200 MB (100 on tcp), all of it in its own memory (-S), by two threads.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need sort
MB=200
[ "$TRANSPORT" = shm ] || MB=100
"$TOOL" lines $MB 2000 11 >"$T/lines" || fail "cannot write $MB MB into $T"
run_native native 60 sort -S 1G --parallel=2 "$T/lines" || fail "sort fails without farmem"
nodes_start
run_far far 180 sort -S 1G --parallel=2 "$T/lines" || fail "sort ended with status $?"
same "$T/native.out" "$T/far.out"
[ "$(wc -c <"$T/far.out")" = "$(wc -c <"$T/lines")" ] || fail "sort lost bytes"
MIN_PAGES=20000 went_far far
e2e_end
