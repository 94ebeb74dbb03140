#!/bin/bash
# fork.sh shm|tcp forker|redis|programs|nodes|rights: children that go on without exec see exactly what their parent
# had at the fork, near and far, whatever becomes of parent, nodes and agent meanwhile.
. "$(dirname "$0")/lib.sh"
e2e_begin 280 "$@"
WHAT=$2
FORKER=$FM_BUILD/tests/e2e_forker
need_built tests/e2e_forker

# forker_far NAME WORD...: under farmem, and all was right.
forker_far() {
	local name=$1
	shift
	run_far "$name" 120 "$FORKER" "$@" || fail "$name: status $?: $(grep -m1 forker: "$T/$name.err")"
	stat_above "$T/$name.stats" swap_out_pages 1000
	stat_above "$T/$name.stats" forks 0
	stat_zero "$T/$name.stats" children
	stat_zero "$T/$name.stats" pinned_bytes
	stat_zero "$T/$name.stats" lost_pages
	stat_zero "$T/$name.stats" crc_mismatches
}

forker() {
	run_native native 60 "$FORKER" tree 16 2 || fail "the forker fails natively"
	LOCAL=12M
	forker_far tree tree 40 3
	forker_far threads threads 40 4
	forker_far killed killed 40 10
	forker_far exec exec 40
	# The parent ends at once; the children's children are read for all the same.
	run_far orphan 60 "$FORKER" orphan 40 "$T/verdict" || fail "orphan: status $?"
	wait_line 60 "$T/verdict" '^(good|bad)$'
	grep -q good "$T/verdict" || fail "orphan: $(grep -m1 forker: "$T/orphan.err")"
}

# The sum of all that a plain redis finds in a file of a far one.
redis_digest() { # FLAGS...
	local pid digest
	redis-server --port 0 --unixsocket "$T/plain.sock" --save '' --dir "$T" --enable-debug-command yes \
		"$@" >"$T/plain.out" 2>&1 &
	pid=$!
	wait_line 30 "$T/plain.out" 'ready to accept connections'
	digest=$(redis-cli -s "$T/plain.sock" debug digest)
	redis-cli -s "$T/plain.sock" shutdown nosave >/dev/null 2>&1
	"$TOOL" await 20 "$pid" || fail "the plain redis does not end"
	rm -f "$T/plain.out"
	[[ $digest =~ ^[0-9a-f]{40}$ ]] || fail "no digest of what was saved"
	echo "$digest"
}

cli() { redis-cli -s "$T/redis.sock" "$@"; }

# save_with COMMAND REGEX: starts it and takes the digest of that very moment; waits for its end, which has such a
# line. Writes wait so long; reads, and both right after the fork, go on.
save_with() {
	cli client pause 60000 write >/dev/null
	DIGEST=$(cli debug digest)
	cli "$1" >/dev/null || fail "$1 refused"
	cli client unpause >/dev/null
	[[ $DIGEST =~ ^[0-9a-f]{40}$ ]] || fail "$1: the digest is '$DIGEST'"
	"$TOOL" line 120 "$T/redis.log" "$2" || fail "$1 did not end"
}

redis() {
	. "$E2E_DIR/redis_lib.sh"
	local flags load round
	REDIS_KEYS=80000
	flags=(--port 0 --unixsocket "$T/redis.sock" --save '' --dir "$T" --enable-debug-command yes
		--auto-aof-rewrite-percentage 0 --logfile "$T/redis.log") # which redis opens for every line
	start_far redis redis-server "${flags[@]}" --appendonly no
	wait_line 30 "$T/redis.log" 'ready to accept connections'
	redis_load fill,load,verify --duration 12s &
	load=$!
	wait_line 60 "$T/load-fill,load,verify.out" '^ *load: begins'
	for round in 1 2; do
		save_with bgsave "Background saving terminated with success"
		mv "$T/dump.rdb" "$T/dump.$round.rdb"
		[ "$(redis_digest --appendonly no --dbfilename "dump.$round.rdb")" = "$DIGEST" ] ||
			fail "BGSAVE $round: not what redis had at the fork"
		say "BGSAVE $round: $DIGEST, fork $(cli info stats | tr -d '\r' | sed -n 's/latest_fork_usec://p') us"
		: >"$T/redis.log"
	done
	cli config set appendonly yes >/dev/null
	"$TOOL" line 60 "$T/redis.log" 'Background AOF rewrite finished successfully' || fail "no first AOF"
	: >"$T/redis.log"
	cli bgrewriteaof >/dev/null
	"$TOOL" line 60 "$T/redis.log" 'Background AOF rewrite finished successfully' || fail "the AOF was not rewritten"
	wait "$load" || fail "a command failed while redis saved"
	DIGEST=$(cli debug digest)
	redis_end
	[ "$(redis_digest --appendonly yes)" = "$DIGEST" ] || fail "the AOF is not what redis had"
	went_far redis
	stat_above "$T/redis.stats" forks 3
}

programs() {
	need python3 perl
	LOCAL=25%
	cat >"$T/pool.py" <<'END'
import hashlib, multiprocessing, random
random.seed(7)
data = {i: random.randbytes(800) for i in range(60000)}
def work(first):
    h = hashlib.sha256()
    for i in range(first, first + 6000):
        h.update(data[i])
    for i in range(first, first + 600):
        data[i] = b'x' * 800
    return h.hexdigest()
multiprocessing.set_start_method('fork')
for round in range(2):
    with multiprocessing.Pool(3) as pool:
        print(pool.map(work, range(0, 60000, 6000)))
print(hashlib.sha256(b''.join(data.values())).hexdigest())
END
	# Children that go on as perl, one writing into another, all of the parent's hash; then one that execs.
	cat >"$T/pipes.pl" <<'END'
use strict; use Digest::MD5 'md5_hex';
my %data = map { $_ => md5_hex($_) x 20 } 1 .. 60000;
for my $round (1 .. 3) {
	my $pid = open(my $from, '-|') // die;
	if (!$pid) {
		my $inner = open(my $deeper, '-|') // die;
		if (!$inner) { print "$_ $data{$_}\n" for 1 .. 60000; exit }
		$data{$_} = 'changed' for 1 .. 30000;
		while (<$deeper>) { print if $. % 3 == $round % 3 }
		print "$data{1} $data{30001}\n";
		exit;
	}
	$data{$_} = md5_hex($data{$_}) x 20 for 30000 .. 40000;
	my $sum = Digest::MD5->new; $sum->add($_) while <$from>;
	close $from or die;
	print $sum->hexdigest, "\n", `echo spawned $round | tr a-z A-Z`;
}
my $all = Digest::MD5->new; $all->add($data{$_}) for 1 .. 60000;
print $all->hexdigest, "\n";
END
	run_native pool 60 python3 "$T/pool.py" || fail "python3 fails natively"
	run_native pipes 60 perl "$T/pipes.pl" || fail "perl fails natively"
	mv "$T/pool.out" "$T/native-pool" && mv "$T/pipes.out" "$T/native-pipes"
	PYTHONMALLOC=malloc run_far pool 120 python3 "$T/pool.py" || fail "python3: status $?"
	same "$T/native-pool" "$T/pool.out"
	run_far pipes 120 perl "$T/pipes.pl" || fail "perl: status $?"
	same "$T/native-pipes" "$T/pipes.out"
	went_far pool
	went_far pipes
	stat_above "$T/pool.stats" forks 5
	stat_above "$T/pipes.stats" forks 2
}

# A child has read one half when nodes go: one dies, then another (or one is drained); columns are rebuilt, and the
# agent's worker dies, before it reads the other half.
nodes() {
	. "$E2E_DIR/repair_lib.sh"
	LOCAL=12M
	[ "$TRANSPORT" = shm ] && MORE_FLAGS=(--embedded-nodes 7)
	mkfifo "$T/in"
	far_flags
	FARMEM_STATS_FILE=$T/half.stats "$FM_BUILD/farmem" run "${FAR_FLAGS[@]}" -- "$FORKER" half 48 \
		<"$T/in" >"$T/half.out" 2>"$T/half.err" &
	FAR_PID=$!
	exec {PUPPET_IN}>"$T/in"
	wait_line 90 "$T/half.out" '^half$'
	strike_node 0
	agent_kill worker
	whole 90 "$STRUCK"
	strike_node 1
	printf x >&"$PUPPET_IN"
	exec {PUPPET_IN}>&-
	end_far 120 || fail "half: status $?: $(grep -m1 forker: "$T/half.err")"
	grep -q '^whole$' "$T/half.out" || fail "half: no end"
	stat_zero "$T/half.stats" lost_pages
	stat_above "$T/half.stats" forks 0
	stat_zero "$T/half.stats" children
}

# A process that gave up the right to userfaultfd: its children have no far memory, and are told so; exec works.
rights() {
	[ "$(id -u)" = 0 ] || skip "needs root, to become nobody"
	chmod 711 "$T"
	setpriv --reuid=65534 --regid=65534 --clear-groups "$TOOL" uffd 2>/dev/null &&
		skip "this machine gives userfaultfd to everyone"
	LOCAL=12M
	# Reads that turn out wrong from the 400th on are decoded: nodes that no handler has met before are to be
	# reached by a process that was root once.
	FARMEM_FAULTS=spanset.fetch.crc=400+ run_far rights 60 "$FORKER" rights 40 || fail "rights: status $?: $(grep -m1 forker: "$T/rights.err")"
	grep -q 'a forked child touched far memory.*userfaultfd' "$T/rights.err" || fail "the child was not told why"
}

case $WHAT in
forker | redis | programs | nodes) nodes_start && "$WHAT" ;;
rights) rights ;;
*) fail "what is '$WHAT'?" ;;
esac
e2e_end
