#!/bin/bash
# apps/farmem_cli_test.sh BUILD: what the farmem command says and returns, and what it hands to the program.
# A line per case. Exit 1 when any failed; 77 with "SKIP: reason" where userfaultfd is refused.
set -u
export LC_ALL=C
farmem=$1/farmem
for variable in "${!FARMEM_@}" LD_PRELOAD; do unset "$variable"; done
scratch=$(mktemp -d /tmp/farmem-cli-XXXXXX)
nodes=()
cleanup() {
	[ ${#nodes[@]} -eq 0 ] || kill "${nodes[@]}" 2>/dev/null
	rm -rf "$scratch"
}
trap cleanup EXIT
cd "$scratch" || exit 1
export FARMEM_DIR=$scratch/run
failures=0

# run COMMAND...: its status in $status, output in $out, standard error in $err.
run() {
	"$@" >"$scratch/out" 2>"$scratch/err" </dev/null
	status=$?
	out=$(<"$scratch/out") err=$(<"$scratch/err")
}

# case NAME STATUS TEXT-IN-ERR COMMAND...: status as given, and one line on standard error with the text ('' : none).
case_of() {
	local name=$1 wanted=$2 text=$3 wrong=''
	shift 3
	run "$@"
	[ "$status" = "$wanted" ] || wrong="status $status, not $wanted"
	if [ -n "$text" ]; then
		[[ $err == *"$text"* ]] || wrong+="; no '$text'"
		[ "$(wc -l <"$scratch/err")" = 1 ] || wrong+="; not one line"
	elif [ -n "$err" ]; then
		wrong+="; not silent"
	fi
	verdict "$name" "$wrong"
}

verdict() {
	if [ -z "$2" ]; then
		echo "ok   $1"
	else
		echo "FAIL $1: $2"
		printf '%s\n' "$out" "$err" | head -n 5 | sed 's/^/     /'
		failures=$((failures + 1))
	fi
}

# same NAME IS WANTED
same() {
	if [ "$2" = "$3" ]; then verdict "$1" ''; else verdict "$1" "'$2' is not '$3'"; fi
}

case_of "no command shows them all" 2 '' "$farmem"
case_of "an unknown command is the user's mistake" 2 "no command 'fly'" "$farmem" fly
case_of "help lists the commands" 0 '' "$farmem" --help
[[ $out == *doctor* ]] || verdict "help names doctor" "it does not"
case_of "help of a command has its flags" 0 '' "$farmem" run --help
[[ $out == *--local* ]] || verdict "help of run names --local" "it does not"
case_of "the version is printed" 0 '' "$farmem" version

case_of "run wants a program" 2 "no program given" "$farmem" run --local 64M
case_of "an unknown flag is named" 2 "--locl" "$farmem" run --locl 64M true
case_of "nonsense sizes are named" 2 "--local" "$farmem" run --local lots true
case_of "a budget larger than the machine is refused" 2 "--local" "$farmem" run --local 900000G true
case_of "a node named twice is refused" 2 "twice" "$farmem" run --nodes h:1,h:1 true
case_of "an unknown variable is named" 2 "FARMEM_LOCALE" env FARMEM_LOCALE=1 "$farmem" run true
case_of "a program that is nowhere gives 127" 127 "no such program" "$farmem" run no-such-program
case_of "a file that is no program gives 126" 126 "/etc/passwd" "$farmem" run /etc/passwd
case_of "a directory for sockets that is too long is refused" 2 "too long" \
	"$farmem" run --dir "/tmp/$(printf 'x%.0s' {1..90})" true

run "$farmem" doctor
if [[ $out == *"FAIL  userfaultfd"* ]]; then
	[ $failures -eq 0 ] || exit 1
	echo "SKIP: userfaultfd is refused here"
	exit 77
fi
case_of "doctor finds that farmem can run here" 0 '' "$farmem" doctor
case_of "doctor's JSON says the same" 0 '' "$farmem" doctor --json
[[ $out == *'"can_run":'*true* ]] || verdict "doctor's JSON has can_run" "it has not"
case_of "doctor fails when no node answers" 1 '' "$farmem" doctor --nodes 127.0.0.1:1

case_of "the program's status is run's" 7 '' "$farmem" run --local 64M -- sh -c 'exit 7'
case_of "-- may be left out" 3 '' "$farmem" run --local 64M sh -c 'exit 3'
"$farmem" run sh -c 'echo $$' >"$scratch/out" &
pid=$!
wait "$pid"
same "run and the program are one process" "$(<"$scratch/out")" "$pid"
# shellcheck disable=SC2016
run "$farmem" run --local 96M --read-ahead 3 --dir rel --log rel.log sh -c \
	'echo "$FARMEM_LOCAL $FARMEM_READ_AHEAD $FARMEM_DIR $FARMEM_LOG ${FARMEM_EC-none}"'
same "flags become variables, paths absolute, defaults stay out" "$out" \
	"96M 3 $scratch/rel $scratch/rel.log none"
# shellcheck disable=SC2016
run env LD_PRELOAD=libc.so.6 "$farmem" run sh -c 'echo "$LD_PRELOAD"'
same "our library comes before others" "$out" "$1/libfarmem-malloc.so:libc.so.6"
# shellcheck disable=SC2016
run "$farmem" run sh -c '"$0" run sh -c '\''echo "$LD_PRELOAD $FARMEM_TREE"'\''; echo "$LD_PRELOAD $FARMEM_TREE"' "$farmem"
same "a run inside a run adds nothing and joins the tree" "${out%%$'\n'*}" "${out##*$'\n'}"
run find /proc/self/fd -type l
before=$(wc -l <"$scratch/out")
run "$farmem" run find /proc/self/fd -type l
same "the program inherits no descriptors of ours" "$(wc -l <"$scratch/out")" "$before"

case_of "top of nothing is no error" 0 '' "$farmem" top --once
case_of "top's JSON of nothing is an empty array" 0 '' "$farmem" top --once --json
same "the empty array" "$out" "[]"
case_of "top of a process that is not there says so" 1 "no process" "$farmem" top --once 999999
case_of "top wants a number" 2 "'12x'" "$farmem" top --once 12x
case_of "nodes of nothing is no error" 0 '' "$farmem" nodes
[[ $out == *"no process uses far memory"* ]] || verdict "nodes of nothing says so" "it does not"
case_of "nodes' JSON of nothing is an empty array" 0 '' "$farmem" nodes --json
same "the empty array of trees" "$out" "[]"
case_of "nodes takes no argument" 2 "'x'" "$farmem" nodes x
case_of "nodes of a tree that is not there says so" 1 "tree 'nowhere'" "$farmem" nodes --tree nowhere
case_of "once and for ever do not go together" 2 "not both" "$farmem" nodes --once --watch
case_of "drain wants a node" 2 "wants a node" "$farmem" drain
case_of "drain takes one node" 2 "'b'" "$farmem" drain a b
case_of "drain without programs has nothing to do" 1 "nothing is on any node" "$farmem" drain a

# An agent that knows one node with four columns, which stay where they are.
mkdir -p "$FARMEM_DIR/pretended"
cat >"$scratch/agent.pl" <<'AGENT'
use strict;
use Socket;
my $json = '{"nodes":[{"name":"n","incarnation":"ab","state":"up","draining":true,"columns":4,' .
	'"out":{"columns":4,"done_bytes":1,"total_bytes":4}}],"processes":[]}';
my $listener;
socket($listener, AF_UNIX, 5, 0) && bind($listener, sockaddr_un($ARGV[0])) && listen($listener, 5) or die;
$| = 1;
print "ready\n";
while (accept(my $asker, $listener)) {
	while (defined recv($asker, my $message, 8192, 0)) {
		last if length($message) < 16;
		my ($version, $kind) = unpack("LL", $message);
		if ($kind == 7) {
			send($asker, $_, 0) for $json, "";
		} else {
			my ($name) = unpack("x16 Z*", $message);
			send($asker, pack("LLq", $version, 13, $name eq "n" ? 0 : -2), 0);
		}
	}
}
AGENT
mkfifo "$scratch/agent-up"
perl "$scratch/agent.pl" "$FARMEM_DIR/pretended/agent.sock" >"$scratch/agent-up" &
agent=$!
read -r -t 10 line <"$scratch/agent-up" || verdict "the pretended agent is up" "it is not"
case_of "a node that no agent knows is named" 1 "no agent knows a node 'm'" "$farmem" drain m
case_of "drain need not wait" 0 '' "$farmem" drain n --no-wait
case_of "a drain can be cancelled" 0 '' "$farmem" drain --cancel n
[[ $out == *"cancelled"* ]] || verdict "cancelling says so" "it does not"
mkfifo "$scratch/watched"
exec 8<>"$scratch/watched"
"$farmem" drain n >&8 2>"$scratch/err" &
pid=$!
read -r -t 10 -u 8 line || line=nothing
same "a drain shows how it goes" "$line" "n: 4 of 4 columns left, 25.0 % moved"
kill -INT $pid
wait $pid
same "ctrl-C ends the watching" $? 130
[[ $(<"$scratch/err") == *"goes on"*"drain --cancel n"* ]]
same "ctrl-C leaves the drain going, and that is said" $? 0
exec 8<&-
exec 8<>"$scratch/watched"
"$farmem" nodes --watch --interval 20ms >&8 &
pid=$!
tables=0
while [ $tables -lt 3 ] && read -r -t 10 -u 8 line; do
	case $line in "tree pretended"*) tables=$((tables + 1)) ;; esac
done
same "nodes watches" $tables 3
kill -INT $pid
wait $pid
same "ctrl-C ends that cleanly" $? 0
exec 8<&-
kill $agent
wait $agent 2>/dev/null
rm -r "$FARMEM_DIR/pretended"

case_of "inspect wants a process" 2 "process id" "$farmem" inspect
case_of "inspect wants one process" 2 "one process id only" "$farmem" inspect 1 2
case_of "inspect wants a number" 2 "'12x'" "$farmem" inspect 12x
case_of "inspect of a process that is not there says so" 3 "no process 999999" "$farmem" inspect 999999
case_of "inspect of a process without far memory says so" 3 "no process $$" "$farmem" inspect $$
mkfifo "$scratch/screen"
exec 8<>"$scratch/screen"
"$farmem" top --interval 50ms >&8 &
pid=$!
read -r -t 5 -u 8 line || line=nothing
kill -INT "$pid"
wait "$pid"
same "ctrl-C leaves top cleanly, after '${line%%  *}'" $? 0

# A live one: 60 MB of heap with 8 MiB near, on memory nodes of its own.
mkfifo "$scratch/in" "$scratch/up"
# shellcheck disable=SC2016
"$farmem" run --local 8M -- perl -e '@a = map { "$_ " x 200 } 1..60000; $| = 1; print "up\n"; <STDIN>' \
	<"$scratch/in" >"$scratch/up" &
pid=$!
exec 7>"$scratch/in"
read -r -t 60 line <"$scratch/up" || line=nothing
same "a program with a heap far beyond its budget comes up" "$line" up
run "$farmem" top --once --json "$pid"
for member in "\"pid\":$pid" '"command":"perl"' '"near_bytes":' '"fault_ns":{"count":' '"state":"up"'; do
	if [[ $out == *"$member"* ]]; then verdict "top's JSON has $member" ''; else verdict "top's JSON has $member" 'it has not'; fi
done
far=${out#*'"far_bytes":'} budget=${out#*'"budget_bytes":'}
same "its budget is what was asked for" "${budget%%,*}" $((8 << 20))
[ "${far%%,*}" -gt $((30 << 20)) ]
same "most of it is far: ${far%%,*} bytes" $? 0
case_of "top shows it" 0 '' "$farmem" top --once "$pid"
[[ $out == *"$pid perl"*"code 4+2"*"embedded-0"* ]] || verdict "top names process, code and nodes" "it does not"
case_of "nodes lists its nodes" 0 '' "$farmem" nodes
for word in "tree " "embedded nodes" "$pid perl" COLUMNS embedded-0 embedded-6 " up "; do
	if [[ $out == *"$word"* ]]; then verdict "nodes says '$word'" ''; else verdict "nodes says '$word'" 'it does not'; fi
done
case_of "nodes' JSON is what the agents say" 0 '' "$farmem" nodes --json
for member in '"tree":"' '"incarnation":"' '"columns":' '"free_bytes":' '"out":{'; do
	if [[ $out == *"$member"* ]]; then verdict "nodes' JSON has $member" ''; else verdict "nodes' JSON has $member" 'it has not'; fi
done
case_of "a node it does not have cannot be drained" 1 "no agent knows a node 'embedded-99'" "$farmem" drain embedded-99
case_of "a node is drained to its end" 0 '' "$farmem" drain embedded-1
[[ $out == *"embedded-1: nothing of the programs is left there" ]]
same "the end of a drain is told" $? 0
run "$farmem" inspect --groups "$pid"
same "no column is left on the drained node" "$(grep -c 'column .* embedded-1 ' <<<"$out")" 0
run "$farmem" top --once --json "$pid"
same "no read was degraded by the drain" "$(grep -o '"degraded_reads":[0-9]*' <<<"$out")" '"degraded_reads":0'
case_of "a drained node is taken into use again" 0 '' "$farmem" drain --cancel embedded-1
case_of "inspect finds every slot of it accounted for" 0 '' "$farmem" inspect --groups "$pid"
for word in "$pid perl" "code 4+2" embedded-0 "group 0: 4+2, open" "column 5" " stable" " far" parity "consistent (running"; do
	if [[ $out == *"$word"* ]]; then verdict "inspect says '$word'" ''; else verdict "inspect says '$word'" 'it does not'; fi
done
case_of "inspect tells each spanset when asked" 0 '' "$farmem" inspect "$pid" --records
[[ $out == *"spanset 0: "*"; slots "* ]] || verdict "inspect names a spanset's slots" "it does not"
kill -STOP "$pid"
case_of "inspect of a stopped program is exact" 0 '' "$farmem" inspect --json "$pid"
kill -CONT "$pid"
for member in '"consistent":true' '"stopped":true' '"groups_moving":' '"slot-leaked":' '"near_with_far_copy":'; do
	if [[ $out == *"$member"* ]]; then verdict "inspect's JSON has $member" ''; else verdict "inspect's JSON has $member" 'it has not'; fi
done
exec 7>&-
wait "$pid"
same "it ends as it would anywhere" $? 0

# Memory nodes: two real ones, on "machines" of their own.
for id in one two; do
	mkfifo "$scratch/ready-$id"
	exec 9<>"$scratch/ready-$id"
	"$1/farmem-memnode" --listen 127.0.0.1:0 --memory 64M --host-id "$id" --ready-fd 9 >"$scratch/node-$id" 2>&1 &
	nodes+=($!)
	read -r -t 20 -u 9 line || verdict "memory node $id is ready" "it is not"
	exec 9<&-
	line=${line#*ctl=}
	declare "$id=${line%% *}"
done
# shellcheck disable=SC2154
{
	case_of "a code the nodes fit is not talked about" 0 '' "$farmem" run --ec 1+1 --nodes "$one,$two" true
	case_of "a narrower code is said loudly" 0 "1+1 is used" "$farmem" run --ec 4+2 --nodes "$one,$two" true
	case_of "one node means no redundancy, said loudly" 0 "NO REDUNDANCY" "$farmem" run --nodes "$one" true
	case_of "a silent node is named, the others do" 0 "node 127.0.0.1:1 does not answer" \
		"$farmem" run --ec 1+1 --nodes "$one,$two,127.0.0.1:1" true
	case_of "two names of one node are noticed" 0 "one and the same" \
		"$farmem" run --ec 1+1 --nodes "$one,$two,localhost:${one##*:}" true
	case_of "doctor counts the hosts" 0 '' "$farmem" doctor --nodes "$one,$two"
}
[[ $out == *"2 hosts"* ]] || verdict "doctor says 2 hosts" "it does not"
run "$farmem" run --nodes 127.0.0.1:1,127.0.0.1:2 true
same "no node at all stops the start" "$status $(wc -l <"$scratch/err")" "1 3"

[ $failures -eq 0 ]
