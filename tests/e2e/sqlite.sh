#!/bin/bash
# 1 M rows in an in-memory database (shm; fewer on what is slower): joins, lookups, updates, sums. The output is what
# it is without farmem.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need sqlite3
if [ "$TRANSPORT" = shm ] && [ -z "${E2E_EVICT:-}" ]; then sqlite_script 1000000; else sqlite_script 120000; fi
run_native native 100 sqlite3 :memory: ".read $SCRIPT" || fail "sqlite3 fails without farmem"
nodes_start
run_far far 180 sqlite3 :memory: ".read $SCRIPT" || fail "sqlite3 ended with status $?"
same "$T/native.out" "$T/far.out"
went_far far
e2e_end
