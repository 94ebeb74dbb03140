#!/bin/bash
# A large hash in perl, built, changed, and read back by key.
. "$(dirname "$0")/lib.sh"
e2e_begin 180 "$@"
need perl
export PERL_HASH_SEED=0
KEYS=100000
[ "$TRANSPORT" = shm ] || KEYS=60000
run_native native 60 perl "$E2E_DIR/perl_hash.pl" $KEYS || fail "perl fails without farmem"
nodes_start
run_far far 150 perl "$E2E_DIR/perl_hash.pl" $KEYS || fail "perl ended with status $?"
same "$T/native.out" "$T/far.out"
went_far far
e2e_end
