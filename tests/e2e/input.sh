#!/bin/bash
# input.sh shm|tcp flags|nodes|programs|rights|hygiene|children: what people get wrong, and what farmem must not get
# wrong around the program it runs. One clear line and the right exit status each.
. "$(dirname "$0")/lib.sh"
e2e_begin 120 "$@"
WHAT=$2

flags() {
	refused unknown-flag 2 'no-such-flag' --no-such-flag -- echo ran
	refused nonsense-size 2 'local' --local 12parsecs -- echo ran
	refused nothing 2 'local' --local= -- echo ran
	refused negative 2 'local' --local -5M -- echo ran
	refused too-much-percent 2 'local' --local 250% -- echo ran
	refused budget-beyond-machine 2 'local.*(memory|machine)' --local 900000G -- echo ran
	refused code 2 'ec' --ec 4+ -- echo ran
	refused wide-code 2 'ec' --ec 40+2 -- echo ran
	refused region 2 'region-size' --region-size 3M -- echo ran
	refused no-program 2 'no program'
	FARMEM_LOCLA=1G refused unknown-variable 2 'FARMEM_LOCLA' -- echo ran
	FARMEM_LOCAL=huge refused nonsense-variable 2 'FARMEM_LOCAL|local' -- echo ran
	printf 'locale = 5M\n' >"$T/config"
	FARMEM_CONFIG=$T/config refused unknown-key 2 'locale' -- echo ran
	FARMEM_CONFIG=$T/none refused missing-file 2 "$T/none" -- echo ran
	# By preload alone there is nobody to refuse before the program: it says so and stops.
	FARMEM_LOCLA=1G LD_PRELOAD=$FM_BUILD/libfarmem-malloc.so /bin/echo ran >"$T/preload.out" 2>"$T/preload.err"
	[ $? = 2 ] || fail "preload with an unknown variable: status not 2"
	[ -s "$T/preload.out" ] && fail "preload with an unknown variable ran the program"
	one_line preload FARMEM_LOCLA
}

# Node lists that cannot be right, or lead to no node.
nodes() {
	local port
	port=$("$TOOL" ports 1)
	nodes_start 6
	refused no-port 2 'port' --nodes localhost -- echo ran
	refused bad-port 2 'port' --nodes localhost:99999 -- echo ran
	refused empty-entry 2 'empty' --nodes h1:1,,h2:1 -- echo ran
	refused duplicate 2 'twice' --nodes "$NODES,127.0.0.1:${NODE_PORT[0]}" -- echo ran
	# Two names for one node: it is one host, and counts once.
	MORE_FLAGS=(--nodes "$NODES,localhost:${NODE_PORT[0]}")
	puppet_start names
	ask_for "fill 60" "filled [0-9]+" 90
	ask_for "check" "checked [0-9]+" 90
	puppet_end || fail "two names for one node: status $?"
	said names "localhost:${NODE_PORT[0]}.*(same|one) (host|machine|node)"
	went_far names
	# One of seven does not answer: said, and the others do.
	MORE_FLAGS=(--nodes "$NODES,127.0.0.1:$port")
	rm -f "$T"/names.*
	puppet_start unreachable
	ask_for "fill 60" "filled [0-9]+" 90
	ask_for "check" "checked [0-9]+" 90
	puppet_end || fail "an unreachable node: status $?"
	said unreachable "127.0.0.1:$port"
	went_far unreachable
}

# said NAME REGEX: told the user, on standard error or in the agent's log.
said() {
	cat "$T/$1.err" "$T"/run/*/agent.log 2>/dev/null | grep -q -i -E -e "$2" ||
		fail "$1: nobody said '$2'"
	say "$1: $(cat "$T/$1.err" "$T"/run/*/agent.log 2>/dev/null | grep -i -E -m1 -e "$2" | cut -c1-160)"
}

# Fewer hosts than k + m: the widest code that fits, said loudly; still right, still far.
narrow() {
	local count
	for count in 4 1; do
		NODES_COUNT=$count
		NODE_PORT=() NODE_DATA_PORT=()
		nodes_start
		puppet_start "few$count"
		ask_for "fill 60" "filled [0-9]+" 90
		ask_for "check" "checked [0-9]+" 90
		puppet_end || fail "$count nodes: status $?"
		if [ "$count" = 1 ]; then said few1 'no redundancy'; else said few4 '(narrow|2\+2|wide)'; fi
		went_far "few$count"
		for ((i = 0; i < count; i++)); do node_stop "$i"; done
	done
}

programs() {
	local file
	refused missing 127 'no-such-program' -- no-such-program
	refused missing-path 127 'nowhere: no such' -- "$T/nowhere"
	refused directory 126 "$T" -- "$T"
	printf 'not a program\n' >"$T/text"
	refused not-executable 126 'text' -- "$T/text"
	refused static 2 'static' -- "$FM_BUILD/tests/e2e_static"
	if [ "$(id -u)" = 0 ]; then
		cp "$FM_BUILD/tests/e2e_puppet" "$T/setuid"
		chown nobody "$T/setuid"
		chmod 4755 "$T/setuid"
		refused setuid 2 'setuid' -- "$T/setuid"
	fi
	# A script runs by its interpreter.
	printf '#!/bin/sh\necho script ran "$1"\n' >"$T/script"
	chmod +x "$T/script"
	run_far script 30 "$T/script" word || fail "a script: status $?"
	[ "$(cat "$T/script.out")" = "script ran word" ] || fail "a script printed '$(cat "$T/script.out")'"
}

# Nobody has a right to userfaultfd unless the machine gives it.
rights() {
	local as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	[ "$(id -u)" = 0 ] || skip "needs root, to become nobody"
	need setpriv
	chmod 711 "$T"
	"${as_nobody[@]}" test -x "$FM_BUILD/farmem" || skip "nobody may not reach $FM_BUILD"
	"${as_nobody[@]}" "$TOOL" uffd 2>/dev/null && skip "this machine gives userfaultfd to everyone"
	timeout 30 "${as_nobody[@]}" "$FM_BUILD/farmem" run -- echo ran >"$T/nobody.out" 2>"$T/nobody.err"
	[ $? = 1 ] || fail "without userfaultfd: status is not 1"
	[ -s "$T/nobody.out" ] && fail "without userfaultfd the program ran"
	one_line nobody 'userfaultfd.*(sysctl|as root|run as)'
	say "nobody: $(cut -c1-200 "$T/nobody.err")"
}

# Process id, status, signals, end of file, descriptors, waitpid: as without farmem.
hygiene() {
	local status text native
	nodes_start
	far_flags
	for status in 0 1 42 255; do
		run_far status 30 sh -c "exit $status"
		[ $? = $status ] || fail "exit status $status became $?"
	done
	# The shell becomes farmem, which becomes the program: one pid, and it dies of the signal itself.
	text=$(sh -c 'echo $$; exec "$@"' sh "$FM_BUILD/farmem" run "${FAR_FLAGS[@]}" -- sh -c 'echo $$; exec sh -c "echo \$\$"')
	[ "$(sort -u <<<"$text" | wc -l)" = 1 ] || fail "the process id changed: $text"
	for signal in 15 9 6; do
		start_far signal sh -c "kill -$signal \$\$"
		end_far 30
		status=$?
		[ $status = $((128 + signal)) ] || fail "signal $signal became status $status"
	done
	# With memory far, and agent and nodes running: a command substitution ends when the program ends, though
	# they live on; and the program's descriptors are those it would have had.
	native=$(printf 'fill 80\ncheck\nfds\n' | "$FM_BUILD/tests/e2e_puppet")
	text=$(printf 'fill 80\ncheck\nfds\n' | FARMEM_STATS_FILE=$T/eof.stats timeout 90 "$FM_BUILD/farmem" run \
		"${FAR_FLAGS[@]}" -- "$FM_BUILD/tests/e2e_puppet" 2>"$T/eof.err") || fail "in \$(): status $?"
	[ "$text" = "$native" ] || fail "without farmem '${native//$'\n'/ }', with it '${text//$'\n'/ }'"
	went_far eof
	# A signal from outside, while far.
	puppet_start term
	ask_for "fill 80" "filled [0-9]+" 90
	kill -TERM "$FAR_PID"
	puppet_end
	status=$?
	[ $status = $((128 + 15)) ] || fail "SIGTERM from outside became status $status"
	# Its own status, while far.
	rm -f "$T"/term.*
	puppet_start own
	ask_for "fill 80" "filled [0-9]+" 90
	ask_for "pid" "pid $FAR_PID"
	try_ask "exit 33" 30
	puppet_end
	status=$?
	[ $status = 33 ] || fail "exit 33 became status $status while far"
}

# Children that exec, and fork without exec, while most memory is far.
children() {
	local how
	nodes_start
	puppet_start far
	ask_for "fill 80" "filled [0-9]+" 90
	for how in spawn vfork system; do
		ask_for "$how" "$how exited 7" 30
	done
	ask_for "check" "checked 838" 90
	ask_for "fork" "fork exited 0" 90 # fork.sh has the rest
	ask_for "check" "checked 838" 90
	ask_for "churn 100" "churned" 90
	ask_for "check" "checked 838" 90
	puppet_end || fail "the parent ended with status $?"
	went_far far
}

case $WHAT in
flags | nodes | narrow | programs | rights | hygiene | children) $WHAT ;;
*) fail "what is '$WHAT'?" ;;
esac
e2e_end
