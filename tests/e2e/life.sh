#!/bin/bash
# life.sh shm|tcp: the odd hours of a process's life (life.c), each with most of its memory far: it ends as it
# would have ended, and every byte it looked at on the way was right.
. "$(dirname "$0")/lib.sh"
e2e_begin 300 "$@"
need_built tests/e2e_life
LIFE=$FM_BUILD/tests/e2e_life

# life WORD STATUS: a program that ends by _exit or a signal leaves no counters.
life() {
	local word=$1 wanted=$2
	run_far "$word" 60 "$LIFE" "$word" 2>/dev/null
	[ $? = "$wanted" ] || fail "$word: status is not $wanted"
	grep -q '^life:' "$T/$word.err" && fail "$word: $(grep -m1 '^life:' "$T/$word.err")"
	[ -s "$T/$word.stats" ] && stat_zero "$T/$word.stats" lost_pages && stat_zero "$T/$word.stats" crc_mismatches
	[ "$wanted" = 0 ] || return 0
	grep -q "^life: $word ok$" "$T/$word.out" || fail "$word did not say that it is ok"
	stat_above "$T/$word.stats" swap_out_pages 1000
	stat_above "$T/$word.stats" swap_in_pages 1000
}

ulimit -c 0
nodes_start

# Its malloc stays its own, which is said; its mappings go far.
LOCAL=8M
run_native own 20 "$FM_BUILD/tests/e2e_own_malloc" || fail "own_malloc fails without farmem"
run_far own-far 60 "$FM_BUILD/tests/e2e_own_malloc" || fail "own_malloc ended with status $?"
same "$T/own.out" "$T/own-far.out"
[ "$(grep -c 'has a malloc of its own' "$T/own-far.err")" = 1 ] || fail "own_malloc: not said that its malloc stays near"
went_far own-far
LOCAL=8M
MORE_FLAGS=(--mmap)
for word in altstack longjmp guard threads before-and-after forms calloc dlopen advice locks huge seccomp; do
	life "$word" 0
done
life exit-thread 44
grep -q 'at exit all was there' "$T/exit-thread.out" || fail "the work left for atexit was not done"
life _exit-thread 44
life main-ends 45
life exit-handler 46
life quick-exit 47
LD_AUDIT=$FM_BUILD/tests/libe2e_auditor.so life threads 0
# Filters that were there first and refuse what is needed: pwritev, socketpair, poll, clone3; said, and never a hang.
for number in 296 53 7 435; do
	[ "$(uname -m)" = x86_64 ] || break
	run_far filtered-$number 30 "$FM_BUILD/tests/e2e_filtered" $number || fail "filtered $number: status $?"
	[ "$(grep -cE '(a seccomp filter refuses .*|cannot start a thread .*)memory stays local' \
		"$T/filtered-$number.err")" = 1 ] || fail "filtered $number: not said why its memory stays local"
done
life abort $((128 + 6))
life kill $((128 + 9))
e2e_end
