# tests/e2e/lib.sh: what every end-to-end case is made of. Sourced, not run:
#
#   . "$(dirname "$0")/lib.sh"; e2e_begin SECONDS shm|tcp [WORD...]
#   ... nodes_start, run_native, run_far, same, went_far ...
#   e2e_end
#
# Rules:
#  1. Nothing is waited for by sleeping: readiness comes through --ready-fd or a line in a file (inotify),
#     the end of a process through a pidfd.
#  2. A case in which nothing went far and came back has tested nothing: went_far fails it.
#  3. Whatever a case starts carries FM_E2E_ID in its environment. At its end all of it must be gone by
#     itself; what is not is a failure, and is killed by process id.
#  4. Exit status 0, 1, or 77 with "SKIP: reason". What farmem itself lacks (a program not built) is a failure.
#
# Environment: FM_BUILD, the build tree. E2E_EVICT=wp, how pages are taken out. E2E_KEEP=1 keeps the directory.

set -u
export LC_ALL=C
E2E_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
FM_BUILD=$(cd "${FM_BUILD:?set FM_BUILD to the build tree}" && pwd) || exit 1
TOOL=$FM_BUILD/tests/e2e_tool
LOCAL=25%
NODE_MEMORY=2G
NODES_COUNT=7
declare -a NODE_PID=() NODE_PORT=() NODE_DATA_PORT=()
NODES=
MORE_FLAGS=() # of `farmem run`, by the case
NODE_FLAGS=() # of real nodes, by the case
PUPPET_IN=250 PUPPET_OUT=251 # not open until puppet_start

say() { printf '%s\n' "e2e: $*"; }

fail() {
	say "FAIL: $*"
	local file
	for file in $(find "$T" \( -name '*.err' -o -name '*.out' -o -name 'agent.log' \) -size +0 -size -2000 \
		-printf '%T@ %p\n' | sort -rn | head -n 4 | cut -d' ' -f2); do
		[[ $file = */native.* ]] && continue
		say "last lines of ${file#"$T"/}:"
		tail -n 8 "$file" | cut -c1-400 | sed 's/^/    /'
	done
	exit 1
}

skip() {
	say "SKIP: $*"
	exit 77
}

# need COMMAND...: programs of the machine, not ours.
need() {
	local command
	for command; do
		command -v "$command" >/dev/null || skip "$command is not installed"
	done
}

need_built() {
	local file
	for file; do
		[ -e "$FM_BUILD/$file" ] || fail "$FM_BUILD/$file is not built"
	done
}

# e2e_begin SECONDS TRANSPORT [WORD...]: the case's own time limit, shorter than ctest's, which could not clean up.
e2e_begin() {
	local seconds=$1
	shift
	if [ -z "${E2E_GUARDED:-}" ]; then
		E2E_GUARDED=1 exec timeout -k 30 "$seconds" bash "$0" "$@"
	fi
	TRANSPORT=${1:?shm or tcp}
	shift
	CASE="$(basename "$0" .sh)${*:+ $*} on $TRANSPORT${E2E_EVICT:+, evict $E2E_EVICT}"
	T=$(mktemp -d "${TMPDIR:-/tmp}/farmem-e2e-XXXXXX") || exit 1
	trap e2e_cleanup EXIT
	trap 'fail "out of time after $seconds s"' TERM
	trap 'exit 1' INT HUP
	export FM_E2E_ID=$$-$RANDOM
	export FARMEM_DIR=$T/run
	unset LD_PRELOAD
	[ -n "${E2E_EVICT:-}" ] && export FARMEM_EVICT=$E2E_EVICT
	need_built tests/e2e_tool
	"$TOOL" uffd || skip "this machine has no userfaultfd for us"
	need_built farmem farmem-agent farmem-memnode libfarmem-malloc.so
}

# Ours, by environment; or by a path below $T among the arguments, for what programs start that clear or write over
# their environment (redis). The tool names that path too, so it is left out.
e2e_procs() { "$TOOL" procs "FM_E2E_ID=$FM_E2E_ID" "$FARMEM_DIR/" | grep -v ' e2e_tool$'; }

e2e_cleanup() {
	local status=$? pid name
	trap - EXIT TERM
	{
		# Programs that write their title over their environment (redis) are found as our own children.
		for pid in $(jobs -p) "${FAR_PID:-}" "${NODE_PID[@]}"; do
			kill -9 "$pid"
		done
		while read -r pid name; do
			kill -9 "$pid"
		done < <(e2e_procs)
		wait
	} 2>/dev/null
	if [ -n "${E2E_KEEP:-}" ]; then say "kept $T"; else rm -rf "$T"; fi
	exit "$status"
}

# The last words of a case: everything must have ended by itself, real nodes after a SIGTERM, with status 0.
e2e_end() {
	local i pids
	for i in "${!NODE_PID[@]}"; do
		[ -n "${NODE_PID[i]}" ] && node_stop "$i"
	done
	pids=$(e2e_procs | cut -d' ' -f1)
	# shellcheck disable=SC2086
	"$TOOL" await "${E2E_END_SECONDS:-15}" $pids || fail "processes left behind: $(e2e_procs | tr '\n' ' ')"
	say "ok: $CASE"
	exit 0
}

# wait_line SECONDS FILE REGEX: until the file, which need not exist yet, has such a line.
wait_line() {
	: >>"$2"
	"$TOOL" line "$1" "$2" "$3" ||
		fail "waited $1 s in vain for '$3' in ${2#"$T"/}"
}

# node_start INDEX [FLAG...]: a real daemon on its own port, which claims to be a host of its own.
node_start() {
	local i=$1 fifo=$T/node$1.ready fd line
	shift
	[ -p "$fifo" ] || mkfifo "$fifo"
	exec {fd}<>"$fifo"
	"$FM_BUILD/farmem-memnode" --listen "127.0.0.1:${NODE_PORT[i]:-0}" --data-listen 127.0.0.1:0 \
		--memory "$NODE_MEMORY" --host-id "${NODE_HOST:-e2e-host-$i}" --name "node-$i" \
		--ready-fd "$fd" "${NODE_FLAGS[@]}" "$@" >>"$T/node$i.out" 2>&1 \
		{PUPPET_IN}>&- {PUPPET_OUT}<&- & # or the puppet's input would not end
	NODE_PID[i]=$!
	read -r -t 20 -u "$fd" line || fail "node $i is not ready after 20 s"
	exec {fd}<&-
	# The ports in the order of the ready line: control, then data.
	mapfile -t line < <(grep -o -E '127\.0\.0\.1:[0-9]+' <<<"$line")
	[ ${#line[@]} = 2 ] || fail "the ready line of node $i does not tell two ports"
	NODE_PORT[i]=${line[0]##*:} NODE_DATA_PORT[i]=${line[1]##*:}
}

# nodes_start [COUNT]: for tcp real daemons; for shm nothing: `farmem run` embeds its own.
nodes_start() {
	local i count=${1:-$NODES_COUNT}
	[ "$TRANSPORT" = tcp ] || return 0
	for ((i = 0; i < count; i++)); do
		node_start "$i"
	done
	nodes_list
}

nodes_list() {
	NODES=$(printf '127.0.0.1:%s,' "${NODE_PORT[@]}")
	NODES=${NODES%,}
}

node_kill() {
	kill -9 "${NODE_PID[$1]}" || fail "node $1 was dead already"
	{ wait "${NODE_PID[$1]}"; } 2>/dev/null
	NODE_PID[$1]=
}

node_stop() {
	kill -TERM "${NODE_PID[$1]}" 2>/dev/null || fail "node $1 died unasked"
	"$TOOL" await 20 "${NODE_PID[$1]}" || fail "node $1 does not end on SIGTERM"
	wait "${NODE_PID[$1]}"
	local status=$?
	[ $status = 0 ] || fail "node $1 ended with status $status on SIGTERM"
	NODE_PID[$1]=
}

# kill_a_node N: the Nth victim of this case, with kill -9, on either transport. Embedded nodes are found among
# our processes; the newest ones are replacements of earlier victims, so the oldest is taken.
kill_a_node() {
	if [ "$TRANSPORT" = tcp ]; then
		node_kill "$1"
	else
		local pid
		pid=$(e2e_procs | awk '$2 ~ /^farmem-memnode/ { print $1 }' | sort -n | head -n 1)
		[ -n "$pid" ] || fail "no embedded memory node is running"
		kill -9 "$pid"
		"$TOOL" await 10 "$pid" || fail "embedded node $pid survived kill -9"
	fi
	say "killed node $1"
}

# FAR_FLAGS: what `farmem run` is given on this transport.
far_flags() {
	FAR_FLAGS=(--local "$LOCAL")
	if [ "$TRANSPORT" = tcp ]; then
		FAR_FLAGS+=(--nodes "$NODES")
	else
		FAR_FLAGS+=(--fabric "$TRANSPORT")
	fi
	FAR_FLAGS+=("${MORE_FLAGS[@]}")
}

# run_native NAME SECONDS COMMAND...: output in $T/NAME.out and .err; the command's status.
run_native() {
	local name=$1 seconds=$2
	shift 2
	timeout "$seconds" "$@" >"$T/$name.out" 2>"$T/$name.err" </dev/null
}

# run_far NAME SECONDS COMMAND...: the same under `farmem run`; counters in $T/NAME.stats.
run_far() {
	local name=$1 seconds=$2 started status
	shift 2
	far_flags
	started=$EPOCHREALTIME
	FARMEM_STATS_FILE=$T/$name.stats timeout "$seconds" "$FM_BUILD/farmem" run "${FAR_FLAGS[@]}" \
		-- "$@" >"$T/$name.out" 2>"$T/$name.err" </dev/null
	status=$?
	say "$name: $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $started }") s, status $status"
	return $status
}

# start_far NAME COMMAND...: in the background; its pid, which is the program's, in FAR_PID.
start_far() {
	local name=$1
	shift
	far_flags
	FARMEM_STATS_FILE=$T/$name.stats "$FM_BUILD/farmem" run "${FAR_FLAGS[@]}" -- "$@" \
		>"$T/$name.out" 2>"$T/$name.err" </dev/null &
	FAR_PID=$!
}

# end_far SECONDS: waits for it; its status.
end_far() {
	"$TOOL" await "$1" "$FAR_PID" || fail "the program did not end within $1 s"
	{ wait "$FAR_PID"; } 2>/dev/null
}

# sqlite_script ROWS: big.sql with so many rows, in SCRIPT.
sqlite_script() {
	SCRIPT=$T/big.sql
	sed "s/i < 1000000/i < $1/" "$E2E_DIR/big.sql" >"$SCRIPT"
}

same() {
	[ -s "$1" ] || fail "${1#"$T"/} is empty"
	cmp -s "$1" "$2" || {
		diff "$1" "$2" | head -n 5 | cut -c1-200
		fail "${2#"$T"/} is not what ${1#"$T"/} is"
	}
}

# stat_of FILE COUNTER
stat_of() {
	[ -s "$1" ] || fail "the program left no counters in ${1#"$T"/}"
	sed -n "s/.*\"$2\": *\([0-9][0-9]*\).*/\1/p" "$1" | tail -n 1
}

# stat_above FILE COUNTER MIN
stat_above() {
	local value
	value=$(stat_of "$1" "$2") || exit 1
	[ -n "$value" ] || fail "no counter $2 in ${1#"$T"/}"
	[ "$value" -gt "$3" ] || fail "$2 is $value, not above $3"
}

stat_zero() {
	local value
	value=$(stat_of "$1" "$2") || exit 1
	[ "$value" = 0 ] || fail "$2 is ${value:-missing}, not 0"
}

# went_far NAME: far memory was really used, nothing was lost, nothing came back damaged.
went_far() {
	local file=$T/$1.stats
	stat_above "$file" swap_out_pages "${MIN_PAGES:-1000}"
	stat_above "$file" swap_in_pages "${MIN_PAGES:-1000}"
	stat_zero "$file" lost_pages
	stat_zero "$file" crc_mismatches
	say "$1: out $(stat_of "$file" swap_out_pages) pages, in $(stat_of "$file" swap_in_pages)," \
		"clean $(stat_of "$file" clean_evictions), degraded $(stat_of "$file" degraded_reads)"
}

# refused NAME STATUS REGEX [FLAG...] [-- COMMAND...]: `farmem run` with these words runs nothing, says one line
# with the regex in it, and ends with the status.
refused() {
	local name=$1 wanted=$2 regex=$3 status
	shift 3
	timeout 30 "$FM_BUILD/farmem" run "$@" >"$T/$name.out" 2>"$T/$name.err" </dev/null
	status=$?
	[ $status = "$wanted" ] || fail "$name: status $status, not $wanted"
	[ -s "$T/$name.out" ] && fail "$name: something ran: $(head -c 200 "$T/$name.out")"
	one_line "$name" "$regex"
	say "$name: $(cut -c1-150 "$T/$name.err")"
}

# one_line NAME REGEX: standard error is this one line, and nothing else.
one_line() {
	[ "$(wc -l <"$T/$1.err")" = 1 ] ||
		fail "$1: wanted one line on standard error, got $(wc -l <"$T/$1.err")"
	grep -q -i -E -e "$2" "$T/$1.err" || fail "$1: no '$2' in: $(cat "$T/$1.err")"
}

# The puppet (puppet.c) under farmem: puppet_start NAME, then ask "LINE" [SECONDS], its answer in ANSWER.
puppet_start() {
	local name=$1
	PUPPET=$name
	mkfifo "$T/$name.in" "$T/$name.answers"
	far_flags
	FARMEM_STATS_FILE=$T/$name.stats "$FM_BUILD/farmem" run "${FAR_FLAGS[@]}" -- \
		"$FM_BUILD/tests/e2e_puppet" <"$T/$name.in" >"$T/$name.answers" 2>"$T/$name.err" &
	FAR_PID=$!
	exec {PUPPET_IN}>"$T/$name.in" {PUPPET_OUT}<"$T/$name.answers"
}

# 0 with ANSWER; 1 when the puppet ended instead.
try_ask() {
	# In a subshell, which SIGPIPE may end when the puppet is gone.
	(printf '%s\n' "$1" >&"$PUPPET_IN") 2>/dev/null || return 1
	read -r -t "${2:-60}" -u "$PUPPET_OUT" ANSWER
}

ask() {
	try_ask "$@" || fail "puppet $PUPPET: no answer to '$1'"
}

# ask_for LINE ANSWER-REGEX [SECONDS]
ask_for() {
	ask "$1" "${3:-60}"
	[[ $ANSWER =~ ^($2)$ ]] || fail "puppet $PUPPET: '$1' answered '$ANSWER', not '$2'"
}

# Sends the puppet a line; answered reads its answer.
tell() { printf '%s\n' "$1" >&"$PUPPET_IN"; }

answered() { # REGEX [SECONDS]
	read -r -t "${2:-90}" -u "$PUPPET_OUT" ANSWER || fail "puppet $PUPPET: no answer: $(tail -n 1 "$T/$PUPPET.err")"
	[[ $ANSWER =~ ^($1)$ ]] || fail "puppet $PUPPET answered '$ANSWER', not '$1'"
}

puppet_end() {
	exec {PUPPET_IN}>&- {PUPPET_OUT}<&-
	PUPPET_IN=250 PUPPET_OUT=251 # these numbers may be somebody else's now
	end_far 30
}
