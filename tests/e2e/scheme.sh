#!/bin/bash
# scheme.sh TRANSPORT none|replicate|split|batch-local: a program under a scheme that is not the default. m nodes die
# by kill -9 meanwhile (under none, nobody): the output stays what it is without farmem, and what inspect counts
# adds up.
. "$(dirname "$0")/lib.sh"
e2e_begin 120 "$@"
SCHEME=$2
KEYS=50000
need perl
export PERL_HASH_SEED=0
MORE_FLAGS=(--scheme "$SCHEME")
run_native native 60 perl "$E2E_DIR/perl_hash.pl" $KEYS || fail "perl fails without farmem"
nodes_start
start_far far perl "$E2E_DIR/perl_hash.pl" $KEYS
wait_line 60 "$T/far.err" 'filled half'
[ "$SCHEME" = none ] || kill_a_node 0
timeout 60 "$FM_BUILD/farmem" inspect "$FAR_PID" >"$T/inspect.out" 2>&1 ||
	fail "inspect found something wrong, or nothing"
grep -q "$SCHEME, code" "$T/inspect.out" || fail "inspect does not name the scheme"
wait_line 60 "$T/far.err" 'changed half'
[ "$SCHEME" = none ] || kill_a_node 1
end_far 90 || fail "perl ended with status $?"
same "$T/native.out" "$T/far.out"
went_far far
if [ "$SCHEME" = none ]; then
	stat_zero "$T/far.stats" degraded_reads
	grep -q 'NO REDUNDANCY' "$T/far.err" || fail "nobody said that nothing may die"
else
	stat_above "$T/far.stats" degraded_reads 0
fi
e2e_end
