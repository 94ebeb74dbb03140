#!/bin/bash
# farmem record and report: the lines that fault are named, in the right shares, and with who called them; two
# programs share one file; a cut or damaged file is said to be one.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need_built tests/e2e_faulter
LOCAL=12M
nodes_start
FAULTER=$FM_BUILD/tests/e2e_faulter

run_native native 60 "$FAULTER" || fail "the program fails without farmem"
far_flags
timeout 120 "$FM_BUILD/farmem" record -o "$T/data" "${FAR_FLAGS[@]}" -- \
	sh -c "'$FAULTER'; '$FAULTER'" >"$T/far.out" 2>"$T/far.err" </dev/null || fail "record: status $?"
cat "$T/native.out" "$T/native.out" >"$T/twice.out"
same "$T/twice.out" "$T/far.out"
grep -c 'record: [0-9]* samples of [0-9]* faults' "$T/far.err" | grep -qx 2 || fail "record does not say what it did, twice"

"$FM_BUILD/farmem" report "$T/data" --svg "$T/flame.svg" >"$T/report.out" 2>"$T/report.err" || fail "report: status $?"
sed 's/^/    /' "$T/report.out"
line_of() { grep -n "/\* $1 \*/" "$E2E_DIR/faulter.c" | cut -d: -f1; }
share_of() { awk -v at="faulter.c:$(line_of "$1")" 'index($0, at) { sub("%", "", $1); print int($1); exit }' "$T/report.out"; }
hot=$(share_of HOT) cold=$(share_of COLD)
[ "${hot:-0}" -ge 65 ] && [ "$hot" -le 90 ] || fail "HOT has ${hot:-no} % of the faults, not about 80"
[ "${cold:-0}" -ge 10 ] && [ "$cold" -le 30 ] || fail "COLD has ${cold:-no} % of the faults, not about 20"
[ $((hot + cold)) -ge 93 ] || fail "the lines named have $((hot + cold)) % of the faults"
[ "$(grep -c 'e2e_faulter, pid' "$T/report.out")" = 2 ] || fail "two programs ran, the report has others"
grep -q '<title>caller_of_hot ' "$T/flame.svg" || fail "the flame graph does not know who called hot"
"$FM_BUILD/farmem" report --json "$T/data" | grep -q '"caller":{"function":"caller_of_hot"' || fail "JSON has no caller"

head -c $(($(stat -c %s "$T/data") - 100)) "$T/data" >"$T/cut"
"$FM_BUILD/farmem" report "$T/cut" >"$T/cut.out" 2>"$T/cut.err" || fail "a cut file is not read"
grep -q 'in the middle of a record' "$T/cut.out" || fail "a cut file is not told"
printf 'FMPROF1\nrubbish rubbish rubbish rubbish' >"$T/bad"
"$FM_BUILD/farmem" report "$T/bad" >"$T/bad.out" 2>"$T/bad.err"
[ $? = 1 ] || fail "a damaged file is no error"
one_line bad 'damaged at byte 8'
"$FM_BUILD/farmem" report "$E2E_DIR/lib.sh" >"$T/other.out" 2>"$T/other.err"
[ $? = 1 ] || fail "a file of somebody else's is no error"
one_line other 'not a file made by farmem record'
"$FM_BUILD/farmem" record -o "$T/no/where" -- true >"$T/where.out" 2>"$T/where.err"
[ $? = 1 ] || fail "a file that cannot be written is no error"
one_line where 'No such file or directory'
e2e_end
