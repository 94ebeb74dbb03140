#!/usr/bin/env bash
# apps/fm_load_test.sh BUILD: fm-echo and fm-load as a user starts them: a table, JSON, a picture and a trace;
# mistakes named; SIGTERM drains.
set -euo pipefail

build=$1
work=$(mktemp -d)
pids=()
cleanup() {
	trap - EXIT
	[ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
failures=0
check() { # check TEXT COMMAND...
	local text=$1
	shift
	if "$@"; then echo "ok   $text"; else echo "FAIL $text"; failures=$((failures + 1)); fi
}
has() { grep -q -- "$2" "$1"; }
status_of() { local rc=0; "$@" >"$work/out" 2>"$work/err" || rc=$?; echo $rc; }

# Three servers, their ports from the ready lines.
servers=''
for i in 0 1 2; do
	"$build/fm-echo" --listen 127.0.0.1:0 --service-time exp:200us --probe user --json >"$work/echo.$i" &
	pids+=($!)
	for ((n = 0; n < 200; n++)); do
		if grep -qs ready "$work/echo.$i"; then break; fi
		read -r -t 0.05 <> <(:) || true
	done
	servers+=,127.0.0.1:$(sed -n 's/.*port=\([0-9]*\).*/\1/p' "$work/echo.$i")
done
servers=${servers#,}

check 'load is measured' test "$(status_of "$build/fm-load" --servers "$servers" --policy mew,prequal,p2c,random \
	--rate 500 --seconds 1 --slice 250ms --warm-up 50ms --slo 20ms --plot "$work/p.svg" --tuner-trace "$work/t.csv")" = 0
for policy in mew prequal p2c random; do
	check "$policy has a row" has "$work/out" "^$policy "
done
check 'the picture is one' has "$work/p.svg" '</svg>'
check 'every policy is in it' test "$(grep -c '<polyline' "$work/p.svg")" = 4
check 'the trace has its columns' has "$work/t.csv" 'rate'
check 'servers of another kind' test "$(status_of "$build/fm-load" --servers "$servers" --other-servers "${servers%%,*}" \
	--policy random,random@other --rate 200 --seconds 500ms --slice 250ms --warm-up 50ms --slo 20ms)" = 0
check 'have their row' has "$work/out" '^random@other '
check 'several rates as JSON' test "$(status_of "$build/fm-load" --servers "$servers" --policy random,mew \
	--rate 200,0.4k --seconds 500ms --slice 250ms --warm-up 50ms --json)" = 0
check 'is one line' test "$(wc -l <"$work/out")" = 1
check 'with both rates' has "$work/out" '"policy":"mew","rate":400'
check 'and nothing failed' test "$(grep -o '"failed":0' "$work/out" | wc -l)" = 4

for bad in '--policy mew@other' '--rate x' '--rate 0' '--policy best' '--policy jsq' '--policy mew,,p2c' '--slice 1s --warm-up 2s' \
	'--baseline rr' '--probes-per-rpc many' '--no-such-flag' '--servers nowhere' 'word'; do
	# shellcheck disable=SC2086
	check "fm-load $bad: exit 2" test "$(status_of "$build/fm-load" $bad)" = 2
	check 'with one line' test "$(wc -l <"$work/err")" = 1
done
for bad in '--service-time exp' '--service-time fast:1ms' '--workers 0' '--probe maybe' '--listen 127.0.0.1:x' \
	'--probe user --probe-allow 10.0.0.0/8'; do
	# shellcheck disable=SC2086
	check "fm-echo $bad: exit 2" test "$(status_of timeout 5 "$build/fm-echo" $bad)" = 2
	check 'with one line' test "$(wc -l <"$work/err")" = 1
done
for program in fm-echo fm-load; do
	check "$program --help" test "$(status_of "$build/$program" --help)" = 0
	check "$program --version" test "$(status_of "$build/$program" --version)" = 0
done
check 'nobody there: exit 1' test "$(status_of "$build/fm-load" --servers 127.0.0.1:9 --policy random --rate 100 \
	--seconds 200ms --slice 200ms --warm-up 0 --deadline 50ms)" = 1

kill -TERM "${pids[0]}"
rc=0
wait "${pids[0]}" || rc=$?
check 'SIGTERM: exit 0' test $rc = 0
check 'with the counters' has "$work/echo.0" '"requests":[1-9]'
[ $failures = 0 ]
