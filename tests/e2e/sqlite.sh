#!/bin/bash
# 1 M rows in an in-memory database: joins, lookups, updates, sums. The output is what it is without farmem.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need sqlite3
run_native native 100 sqlite3 :memory: ".read $E2E_DIR/big.sql" || fail "sqlite3 fails without farmem"
nodes_start
run_far far 180 sqlite3 :memory: ".read $E2E_DIR/big.sql" || fail "sqlite3 ended with status $?"
same "$T/native.out" "$T/far.out"
went_far far
e2e_end
