#!/usr/bin/env bash
# apps/lbsim_cli_test.sh FM-LBSIM: the command as a user types it: exit codes, one line for each mistake, JSON, CSV and
# SVG that can be read, the same numbers from the same seed.
set -euo pipefail

lbsim=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

fail() {
	echo "FAIL $*"
	failed=1
}

# mistake WORD ARGUMENT...: exit 2, nothing but one line on standard error, which has the word.
mistake() {
	local word=$1 status=0
	shift
	timeout 60 "$lbsim" "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
	[ "$status" = 2 ] || fail "$*: exit $status"
	[ "$(wc -l <"$scratch/err")" = 1 ] || fail "$*: $(cat "$scratch/err")"
	grep -q -- "$word" "$scratch/err" || fail "$*: '$word' is not in: $(cat "$scratch/err")"
}

timeout 60 "$lbsim" --help >"$scratch/help" || fail "--help: exit $?"
for word in sweep curve tuner experiment --servers --policy mew-fixed; do
	grep -q -- "$word" "$scratch/help" || fail "--help does not say $word"
done
timeout 60 "$lbsim" >/dev/null && fail "no command: exit 0"

mistake "no command 'fly'" fly
mistake "no policy 'fly'" sweep --policy fly
mistake "@ebpf, @user or @thread" sweep --policy mew@fly
mistake "no list of loads" sweep --load 0.5..x
mistake "no list of loads" sweep --load 0.9..0.5
mistake "load" sweep --load 0 --requests 1000 --seeds 1
mistake "servers" sweep --servers 100000
mistake "deadline" sweep --failing 1
mistake "degraded" sweep --degraded 33
mistake "probe-loss" sweep --probe-loss 2
mistake "which one" experiment
mistake "no experiment 'e9'" experiment e9
mistake "start" tuner --start 0
mistake "step" tuner --step moon=1
mistake "no flag" sweep extra

small=(sweep --servers 8 --load 0.3,0.6 --policy "random,p2c@user,mew@ebpf" --requests 5000 --seeds 2)
timeout 60 "$lbsim" "${small[@]}" --json --csv "$scratch/a.csv" --svg "$scratch/a.svg" >"$scratch/a.json" ||
	fail "sweep: exit $?"
timeout 60 "$lbsim" "${small[@]}" --json --csv "$scratch/b.csv" >"$scratch/b.json"
cmp -s "$scratch/a.json" "$scratch/b.json" || fail "the same seed gave other numbers"
[ "$(wc -l <"$scratch/a.csv")" = 7 ] || fail "CSV: $(wc -l <"$scratch/a.csv") lines instead of 7"
fields=$(awk -F, '{ print NF }' "$scratch/a.csv" | sort -u)
[ "$fields" = 18 ] || fail "CSV: rows of $fields fields"
if command -v python3 >/dev/null; then
	python3 -c "
import json, sys, xml.dom.minidom
data = json.load(open('$scratch/a.json'))
assert len(data['points']) == 6, 'points'
assert all(p['p99_us'] >= p['p50_us'] > 10 for p in data['points']), 'latencies'
xml.dom.minidom.parse('$scratch/a.svg')
" || fail "JSON or SVG"
fi
timeout 60 "$lbsim" tuner --servers 4 --requests 100000 --svg "$scratch/t.svg" >"$scratch/t.csv" 2>"$scratch/err" ||
	fail "tuner: exit $?"
[ "$(head -1 "$scratch/t.csv")" = seconds,rate,low_ns,high_ns,step,frozen,restart ] || fail "tuner: no trace"
grep -q "f at the end" "$scratch/err" || fail "tuner: no summary"

# A file that cannot be written is no success.
status=0
timeout 60 "$lbsim" "${small[@]}" --csv "$scratch/none/a.csv" >/dev/null 2>"$scratch/err" || status=$?
[ "$status" = 1 ] || fail "a file that cannot be written: exit $status"

[ "$failed" = 0 ] && echo "ok   the command line of fm-lbsim"
exit "$failed"
