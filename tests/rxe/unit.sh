# unit.sh PROGRAM WORD...: one of the unit-test programs, in the client guest (nodes of its own, in the same guest).
program=$1
shift
on 0 400 "\$FM_BUILD/tests/$program $*" || fail "$program $* fails" || return
note "$(grep -c '^ok' "$LOG") cases"
