# tests/rxe/lib.sh: what the cases of ci/rxe share. Sourced by ci/rxe.d/drive before the first case.
#
# A case is a file that is sourced with its words as arguments; it returns 0, or 1 after `fail REASON`, or skips by
# `skip_case REASON || return 0`. It runs on the host and has programs run in guests: on, begin, ended, told, node_kill,
# guest_kill, link_set (ci/rxe.d/drive). Every wait has a limit, generous: two cores emulate all of the guests.

# enough_guests N: whether there are so many
enough_guests() {
	[ "$GUESTS" -ge "$1" ] || {
		CASE_SKIPPED="wants $1 guests (ci/rxe --guests $1)"
		return 1
	}
}

# guests_apart: whether each has a link of its own to lose
guests_apart() {
	[ "${SPACES:-1}" = 1 ] || {
		CASE_SKIPPED="all guests share one device here"
		return 1
	}
}

# puppet_start FABRIC LOCAL [FLAG...]: tests/e2e/puppet.c under farmem on the client, over the cluster's nodes.
puppet_start() {
	local fabric=$1 near=$2
	shift 2
	puppet_run=puppet$((++puppets))
	begin 0 "$puppet_run" 900 "
		d=$SCRATCH/$puppet_run && mkdir -p \$d && mkfifo \$d/ask \$d/in \$d/out && exec 7<>\$d/ask
		FARMEM_STATS_FILE=\$d/stats farmem run $(fabric_flags "$fabric") --local $near --region-size 4M $* -- \
			\$FM_BUILD/tests/e2e_puppet <\$d/in >\$d/out 3>&- 7<&- &
		puppet=\$!
		trap '' PIPE
		exec 5>\$d/in 6<\$d/out
		tell started
		while read -r -u 7 line && [ \"\$line\" != end ]; do
			echo \"\$line\" >&5
			read -r -u 6 answer || { tell ended; break; }
			tell \$answer
		done
		exec 5>&-
		wait \$puppet
		status=\$?
		cat \$d/stats 2>/dev/null
		exit \$status"
	puppet_log=$LOG
	told 0 "$puppet_run" 60 || fail "the program did not start"
}
puppets=0

# ask LINE SECONDS ANSWER: what the puppet is told, and the answer it must give
ask() {
	on 0 20 "echo '$1' >$SCRATCH/$puppet_run/ask" || fail "cannot reach the program" || return
	told 0 "$puppet_run" "$2" || {
		LOG=$puppet_log
		fail "no answer to '$1' within $2 s"
		return
	}
	[[ $EVENT =~ ^($3)$ ]] || {
		LOG=$puppet_log
		fail "'$1' answered '$EVENT', not '$3'"
	}
}

# puppet_end: it must end well; its counters are in $LOG then, for stat_of
puppet_end() {
	local status=0
	on 0 20 "echo end >$SCRATCH/$puppet_run/ask" || fail "cannot reach the program" || return
	ended 0 "$puppet_run" 90 || status=$?
	LOG=$puppet_log
	[ $status = 0 ] || fail "the program ended with status $status"
}

# stat_of COUNTER: from $LOG
stat_of() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" "$LOG" | tail -n 1; }

# stat_above COUNTER MIN
stat_above() {
	local value
	value=$(stat_of "$1")
	[ "${value:-0}" -gt "$2" ] || fail "$1 is ${value:-missing}, not above $2"
}

stat_zero() {
	local value
	value=$(stat_of "$1")
	[ "$value" = 0 ] || fail "$1 is ${value:-missing}, not 0"
}

# dead_were_missed: what the dead held was wanted: read from the others, at once or by a hedge, or rebuilt elsewhere
dead_were_missed() {
	local name sum=0
	for name in degraded_reads hedged_wins repaired_columns; do
		sum=$((sum + $(stat_of $name)))
	done
	[ $sum -gt 0 ] || fail "nobody missed what the dead held"
}

# went_far: far memory was really used, and nothing was lost or damaged
went_far() {
	stat_above swap_out_pages "${1:-1000}" && stat_above swap_in_pages "${1:-1000}" &&
		stat_zero lost_pages && stat_zero crc_mismatches || return
	note "out $(stat_of swap_out_pages) pages, in $(stat_of swap_in_pages), degraded $(stat_of degraded_reads)"
}

# perftest SERVER TAG TOOL FLAGS: a server of perftest in a guest, once it listens its client in guest 0; the client's
# output in $LOG. The port tells that the server is there; /proc/net/tcp tells of the port.
perftest() {
	local server=$1 tool=$2 port=$((18500 + ++perftests)) hex
	shift 2
	hex=$(printf ':%04X 00000000:0000 0A' "$port")
	begin "$server" "perf$port" 120 "
		$tool -p $port $* >/dev/null 2>&1 3>&- & pid=\$!
		until grep -q '$hex' /proc/net/tcp; do kill -0 \$pid || exit 1; read -r -t 0.05 <> <(:); done
		tell up
		wait \$pid"
	told "$server" "perf$port" 60 || fail "$tool does not start" || return
	on 0 100 "$tool -p $port $* $(address "$server")" || fail "$tool fails" || return
}
perftests=0
