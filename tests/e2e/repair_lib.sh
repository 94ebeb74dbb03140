# tests/e2e/repair_lib.sh: victims by name, and waiting for redundancy. Sourced by the cases of repair, drain and
# the agent's restart, after e2e_begin.

need_built tests/farmem-watch
WATCH=$FM_BUILD/tests/farmem-watch

# The agent is a supervisor and its child, the worker.
agent_pid() { # worker|supervisor
	local pid name parent pids=" "
	while read -r pid name; do
		[[ $name = farmem-agent* || $name = farmem-worker* ]] && pids+="$pid "
	done < <(e2e_procs)
	for pid in $pids; do
		parent=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) || continue
		if [[ $pids = *" $parent "* ]]; then
			[ "$1" = worker ] && echo "$pid" && return
		else
			[ "$1" = supervisor ] && echo "$pid" && return
		fi
	done
	return 1
}

agent_kill() { # worker|supervisor
	local pid
	pid=$(agent_pid "$1") || fail "the agent has no $1"
	kill -9 "$pid"
	"$TOOL" await 10 "$pid" || fail "the agent's $1 survived kill -9"
	say "killed the agent's $1"
}

# The node's name in the catalog.
node_name() {
	if [ "$TRANSPORT" = tcp ]; then echo "127.0.0.1:${NODE_PORT[$1]}"; else echo "embedded-$1"; fi
}

node_incarnation() {
	"$WATCH" incarnation "$FAR_PID" "$(node_name "$1")" || fail "no catalog"
}

# Process of embedded node N.
embedded_pid() {
	local pid name
	while read -r pid name; do
		[[ $name = farmem-memnode* ]] && tr '\0' '\n' <"/proc/$pid/cmdline" | grep -q -E "/node-$1(/|\$)" &&
			echo "$pid" && return
	done < <(e2e_procs)
	return 1
}

# strike_node N: kill -9; on tcp it is not started again. Its incarnation in STRUCK.
strike_node() {
	local pid
	STRUCK=$(node_incarnation "$1")
	[ "$STRUCK" != 0 ] || fail "node $1 is not up"
	if [ "$TRANSPORT" = tcp ]; then
		node_kill "$1"
	else
		pid=$(embedded_pid "$1") || fail "embedded node $1 is not running"
		kill -9 "$pid"
	fi
}

# whole SECONDS [INCARNATION]: full redundancy again, nothing left on that incarnation. And the tools say so.
whole() {
	local ms
	ms=$("$WATCH" whole "$1" "$FAR_PID" ${2:+"$2"}) || fail "no full redundancy after $1 s"
	say "whole after $ms ms more"
}

count_of() { "$WATCH" count "$FAR_PID" "$1"; }
