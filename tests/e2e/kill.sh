#!/bin/bash
# kill.sh TRANSPORT sqlite|perl|torture|redis|puppet: one memory node dies by kill -9 under load, then a second
# one (m = 2). The program's output stays what it is without farmem. On tcp the dead nodes' bytes are really gone.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
WHAT=$2
nodes_start

# Degraded reads must have happened, or the dead nodes held nothing that was needed.
survived() {
	went_far "$1"
	stat_above "$T/$1.stats" degraded_reads 0
}

case $WHAT in
sqlite)
	need sqlite3
	sqlite_script 250000
	run_native native 100 sqlite3 :memory: ".read $SCRIPT" || fail "sqlite3 fails without farmem"
	E2E_PROGRESS=$T/progress start_far far sqlite3 :memory: ".read $SCRIPT"
	wait_line 100 "$T/progress" filled
	kill_a_node 0
	wait_line 100 "$T/progress" indexed
	kill_a_node 1
	end_far 150 || fail "sqlite3 ended with status $?"
	same "$T/native.out" "$T/far.out"
	;;
perl)
	need perl
	export PERL_HASH_SEED=0
	run_native native 60 perl "$E2E_DIR/perl_hash.pl" 70000 || fail "perl fails without farmem"
	start_far far perl "$E2E_DIR/perl_hash.pl" 70000
	wait_line 100 "$T/far.err" 'filled half'
	kill_a_node 0
	wait_line 100 "$T/far.err" 'changed half'
	kill_a_node 1
	end_far 150 || fail "perl ended with status $?"
	same "$T/native.out" "$T/far.out"
	;;
torture)
	words=(--ops 8000 --live 120M --seed 5 --dir "$T" --progress)
	run_native native 60 "$FM_BUILD/farmem-torture" "${words[@]}" || fail "torture fails without farmem"
	start_far far "$FM_BUILD/farmem-torture" "${words[@]}"
	wait_line 100 "$T/far.err" 'to do 60%'
	kill_a_node 0
	wait_line 100 "$T/far.err" 'to do 30%'
	kill_a_node 1
	end_far 200 || fail "torture ended with status $?"
	same "$T/native.out" "$T/far.out"
	;;
redis)
	. "$E2E_DIR/redis_lib.sh"
	redis_start
	redis_load fill
	redis-benchmark -s "$T/redis.sock" --dbnum 1 -t set,get -n 200000 -r 50000 -d 400 -c 10 -q >"$T/benchmark.out" 2>&1 &
	load=$!
	kill_a_node 0
	redis_load verify
	kill_a_node 1
	redis_load verify
	wait "$load" || fail "redis-benchmark ended with status $?"
	redis_end
	ln "$T/redis.stats" "$T/far.stats"
	;;
puppet)
	puppet_start far
	ask_for "fill 100" "filled [0-9]+" 90
	ask_for "check" "checked 1048" 90
	kill_a_node 0
	ask_for "check" "checked 1048" 120
	kill_a_node 1
	ask_for "check" "checked 1048" 120
	# Writes go on too, over what is left of the nodes.
	ask_for "churn 300" "churned" 120
	ask_for "check" "checked 1048" 120
	puppet_end || fail "puppet ended with status $?"
	;;
*) fail "what is '$WHAT'?" ;;
esac
survived far
e2e_end
