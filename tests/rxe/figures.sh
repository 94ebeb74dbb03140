# figures.sh [ROUNDS [PART...]] (ci/rxe --figures): the figures of the verbs fabric, each beside the limit it is held
# against, interleaved with perftest's own tools in one cluster; a line of JSON at the end, and in figures.json (--keep).
#
#   1  a read of 4 KiB and 16 KiB against ib_read_lat; a whole fault against ib_read_lat + 1.3 x a bare userfaultfd
#   2  batches of 64 pages to 4+2 columns, parities counted, against ib_write_bw with messages of the same size
#   3  the memory nodes' threads while pages move, against the same nodes while the same program stands still
#   4  a page from one read (batch) against a page from k reads (split)
#   5  a node's guest killed under a program that reads: the longest that an access stood
#
# Times and rates are of the best round, on both sides of a ratio: noise only ever adds. With fewer than 7 guests nodes
# share guests: figures are printed, and a missed limit is no failure; nor are guests killed then, but a node's process.
# PART: latency, writes, asleep, split or death; all of them without. Leaves a guest dead: for a run by itself.

figures_rounds=${1:-3} figures_json='' figures_missed=0 figures_taken=0
figures_full='' figures_parts=("${@:2}")
[ $# -gt 1 ] || figures_parts=(latency writes asleep split death)
[ "$GUESTS" -lt 7 ] || figures_full=1

# figure_add NAME VALUE UNIT [at-most|at-least LIMIT]: prints it, judged where it has a limit
figure_add() {
	local verdict='' rest=''
	if [ -n "${4:-}" ]; then
		verdict=met
		awk -v v="$2" -v l="$5" -v how="$4" 'BEGIN { exit !(how == "at-most" ? v <= l : v >= l) }' || verdict=MISSED
		[ $verdict = met ] || figures_missed=$((figures_missed + 1))
		rest=$(printf '  (%s %s)  %s' "${4/-/ }" "$5" "$verdict")
	fi
	figures_taken=$((figures_taken + 1))
	printf '  %-66s %9s %-6s%s\n' "$1" "$2" "$3" "$rest"
	figures_json+="${figures_json:+,}{\"name\":\"$1\",\"value\":$2,\"unit\":\"$3\""
	[ -z "$verdict" ] || figures_json+=",\"how\":\"$4\",\"limit\":$5,\"verdict\":\"$verdict\""
	figures_json+='}'
}

# calculate EXPRESSION A [B [C]]: awk's, three digits
calculate() { awk -v a="$2" -v b="${3:-0}" -v c="${4:-0}" "BEGIN { printf \"%.3f\", $1 }"; }

# sample NAME VALUE: one more of a series; series_least NAME, series_most NAME
declare -A figures_series=()
sample() {
	[[ $2 =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "$1 gave '$2', no number" || return
	figures_series[$1]+="$2 "
}
series_least() { tr ' ' '\n' <<<"${figures_series[$1]% }" | sort -g | head -n 1; }
series_most() { tr ' ' '\n' <<<"${figures_series[$1]% }" | sort -g | tail -n 1; }

# of the report of a bench, and of the histograms of a program's counters, both in $LOG; ns to us: report_us
report_of() { sed -n "s/.*[\" ,]$1\"\{0,1\}[=:]\([0-9.]*\).*/\1/p" "$LOG" | head -n 1; }
hist_of() { sed -n "s/.*\"$1\":{[^}]*\"$2\":\([0-9]*\).*/\1/p" "$LOG" | tail -n 1; }
to_us() { calculate 'a / 1000' "${1:-0}"; }

# The guest where perftest's servers run is that of the first node: what is compared takes the same way.
figures_read_lat() {
	perftest "$(node_guest 0)" ib_read_lat -s "$1" -n 500 -F || return
	sample "ib_read_lat_$1" "$(awk -v s="$1" '$1 == s { print $5 }' "$LOG")"
}

figures_read() {
	on 0 120 "\$FM_BUILD/bench/remote --nodes \$FARMEM_NODES --work read --bytes $1 --count 500" ||
		fail "bench/remote fails" || return
	sample "read_$1" "$(to_us "$(report_of p50_ns)")" && sample "read_p99_$1" "$(to_us "$(report_of p99_ns)")"
}

# figures_far NAME FLAG...: a program whose pages are far, in random order; its line and its counters in $LOG
figures_far() {
	local name=$1
	shift
	on 0 400 "
		farmem_stats=$SCRATCH/figures.stats
		rm -f \$farmem_stats
		FARMEM_STATS_FILE=\$farmem_stats farmem run --fabric verbs --local 4M --region-size 4M $* -- \
			\$FM_BUILD/bench/access --size 10M --reads 100 --accesses 1500 --warm-up 100
		status=\$?
		cat \$farmem_stats
		exit \$status" || fail "the program fails" || return
	stat_zero crc_mismatches && stat_zero lost_pages || return
	sample "fault_$name" "$(to_us "$(hist_of fault_ns p50)")" &&
		sample "fault_p99_$name" "$(to_us "$(hist_of fault_ns p99)")" &&
		sample "access_$name" "$(to_us "$(report_of p50_ns)")" &&
		sample "rate_$name" "$(report_of access_per_s)"
}

figures_uffd() {
	on 0 120 "\$FM_BUILD/bench/uffd_control --pages 1024 --faults 4000" || fail "no userfaultfd control" || return
	sample uffd "$(to_us "$(report_of p50_ns)")"
}

figures_latency() {
	local round size read
	for ((round = 0; round < figures_rounds; round++)); do
		for size in 4096 16384; do
			figures_read_lat $size && figures_read $size && figures_read $size && figures_read_lat $size || return
		done
		figures_uffd && figures_far batch && figures_far spin --spin 3ms || return
	done
	for size in 4096 16384; do
		figure_add "1 ib_read_lat of $size bytes, p50" "$(series_least ib_read_lat_$size)" us
		figure_add "1 a read of $size bytes by the fabric, p99" "$(series_least read_p99_$size)" us
		read=$(series_least read_$size)
		figure_add "1 a read of $size bytes by the fabric, p50" "$read" us at-most \
			"$(calculate '1.15 * a' "$(series_least ib_read_lat_$size)")"
	done
	figure_add "1 a fault of a bare userfaultfd, p50" "$(series_least uffd)" us
	figure_add "1 a whole fault, p50" "$(series_least fault_batch)" us at-most \
		"$(calculate 'a + 1.3 * b' "$(series_least ib_read_lat_4096)" "$(series_least uffd)")"
	figure_add "1 a whole fault whose handler never sleeps (--spin 3ms), p50" "$(series_least fault_spin)" us
	figure_add "1 an access of the program, p50 (some are near)" "$(series_least access_batch)" us
}

# perftest's MB are of 2^20 bytes
figures_writes() {
	local round limit
	for ((round = 0; round < figures_rounds; round++)); do
		perftest "$(node_guest 0)" ib_write_bw -s 65536 -n 200 -F || return
		sample ib_write_bw "$(awk '$1 == 65536 { printf "%.2f", $4 * 1.048576 }' "$LOG")" || return
		on 0 120 "\$FM_BUILD/bench/remote --nodes \$FARMEM_NODES --work write --ec 4+2 --count 40 --warm-up 5" ||
			fail "bench/remote fails" || return
		sample writes "$(report_of mb_per_s)" || return
		on 0 200 "\$FM_BUILD/bench/store --nodes \$FARMEM_NODES --ec 4+2 --region 4M --batches 8" ||
			fail "bench/store fails" || return
		sample stores "$(calculate 'a * 1000 * 6 / 4' "$(report_of store_gb_per_s)")" || return
	done
	limit=$(calculate '0.8 * a' "$(series_most ib_write_bw)")
	figure_add "2 ib_write_bw of 65536 bytes" "$(series_most ib_write_bw)" MB/s
	figure_add "2 batches of 64 pages to 4+2 nodes, the fabric" "$(series_most writes)" MB/s at-least "$limit"
	figure_add "2 the same with coding, CRCs and records (spanset_store)" "$(series_most stores)" MB/s
}

# nodes_look FILE: of each thread of each node: node, thread, name, ns on a CPU, voluntary context switches (how often
# it was woken; the others say how crowded a CPU is)
nodes_look() {
	local i tags=() logs=()
	: >"$1"
	for ((i = 0; i < NODES + SPARE; i++)); do
		tags[i]=look$((++figures_looks))
		begin "$(node_guest $i)" "${tags[i]}" 60 "
			cd /proc/${node_pid[i]}/task || exit
			# a thread that ends just now: once more
			for try in 1 2 3 4; do
				found=\$(awk '
				FNR == 1 { thread = FILENAME; sub(/\/.*/, \"\", thread) }
				FILENAME ~ /schedstat$/ { ns[thread] = \$1 }
				FILENAME ~ /status$/ && \$1 == \"Name:\" { name[thread] = \$2 }
				FILENAME ~ /status$/ && \$1 == \"voluntary_ctxt_switches:\" { woken[thread] = \$2 }
				END { for (t in name) print \"LOOK\", $i, t, name[t], ns[t], woken[t] }' */schedstat */status) &&
					echo \"\$found\" && exit
			done
			exit 1"
		logs[i]=$LOG
	done
	for ((i = 0; i < NODES + SPARE; i++)); do
		ended "$(node_guest $i)" "${tags[i]}" 90 || fail "cannot look at node $i" || return
		sed -n 's/^LOOK //p' "${logs[i]}" >>"$1"
	done
}
figures_looks=0

# pages_moved: in and out, of the program that runs, into MOVED
pages_moved() {
	on 0 60 "farmem top --once --json" || fail "farmem top fails" || return
	MOVED=$(awk '{
		while (match($0, /"swap_(in|out)_pages":[0-9]+/)) {
			split(substr($0, RSTART, RLENGTH), part, ":")
			sum += part[2]
			$0 = substr($0, RSTART + RLENGTH)
		}
	} END { print sum + 0 }' "$LOG")
}

# looks_compare IDLE_SECONDS BUSY_SECONDS: from $W/look0, 1, 2, for all nodes together, a second: "data IDLE BUSY MORE
# US", likewise "clock" and "control": how often their threads were woken while idle and busy, the difference, and that
# of their CPU. A guest that gets no time wakes nobody: what the clock threads did says how fast its time went.
#  control: gRPC's threads and all younger ones (memnode/main.c starts the control plane last)
#  clock: an older one with more than 20 switches a second while idle: the publisher of the load, every 10 ms
#  data: the others: data servers, the RDMA connections' thread, workers, the main thread
looks_compare() {
	awk -v is="$1" -v bs="$2" '
		FNR == 1 { look++ }
		look == 1 && $3 ~ /^(default-exec|resolver-exec|grpc_global|event_engine|timer_manager)/ {
			if (!($1 in grpc) || $2 < grpc[$1]) grpc[$1] = $2
		}
		look < 3 { ns[look, $1, $2] = $4; switches[look, $1, $2] = $5; next }
		(2, $1, $2) in ns {
			idle = (switches[2, $1, $2] - switches[1, $1, $2]) / is
			busy = ($5 - switches[2, $1, $2]) / bs
			class = ($1 in grpc) && $2 >= grpc[$1] ? "control" : idle > 20 ? "clock" : "data"
			was[class] += idle; is_now[class] += busy
			usidle[class] += (ns[2, $1, $2] - ns[1, $1, $2]) / 1000 / is
			usbusy[class] += ($4 - ns[2, $1, $2]) / 1000 / bs
		}
		END {
			pace = was["clock"] > 0 ? is_now["clock"] / was["clock"] : 1
			for (class in was)
				printf "%s %.2f %.2f %.2f %.1f\n", class, was[class], is_now[class],
					is_now[class] - pace * was[class], usbusy[class] - pace * usidle[class]
		}' "$W/look0" "$W/look1" "$W/look2" >"$W/looks"
	[ "$(grep -c '^data\|^control' "$W/looks")" = 2 ] || fail "the nodes' threads are not told apart"
}

# figures_asleep FABRIC WOKEN US: the same program over the same leases stands still, then works: keepalives, probes and
# looks go on in both. Compaction is off: the nodes' part in it is theirs. WOKEN, US: limits, or nothing; who serves pages
# is woken at least once for each batch that leaves (94 times for 1000 pages).
figures_asleep() {
	local fabric=$1 at0 at1 at2 before moved pages class idle busy more us
	puppet_start "$fabric" 4M --compact off || return
	ask "fill 10" 300 'filled [0-9]+' && ask "check" 300 'checked [0-9]+' && ask "churn 20" 300 churned || return
	nodes_look "$W/look0" || return
	at0=$EPOCHREALTIME
	on 0 60 "sleep 8" || return
	nodes_look "$W/look1" || return
	at1=$EPOCHREALTIME
	pages_moved || return
	before=$MOVED
	for ((; ;)); do
		ask "check" 300 'checked [0-9]+' && ask "churn 20" 300 churned || return
		[ "$(calculate 'b - a >= 8' "$at1" "$EPOCHREALTIME")" = 0.000 ] || break
	done
	pages_moved || return
	nodes_look "$W/look2" || return
	at2=$EPOCHREALTIME
	puppet_end || return
	stat_zero lost_pages && stat_zero crc_mismatches || return
	moved=$((MOVED - before))
	[ $moved -gt 500 ] || fail "only $moved pages moved" || return
	looks_compare "$(calculate 'b - a' "$at0" "$at1")" "$(calculate 'b - a' "$at1" "$at2")" || return
	pages=$(calculate 'c / (b - a)' "$at1" "$at2" $moved)
	figure_add "3 $fabric: pages in and out" "$pages" 1/s
	while read -r class idle busy more us; do
		figure_add "3 $fabric: wake-ups of the nodes' $class threads, program idle" "$idle" 1/s
		figure_add "3 $fabric: wake-ups of the nodes' $class threads, program busy" "$busy" 1/s
		[ "$class" = data ] || continue
		# shellcheck disable=SC2086 # two words or none
		figure_add "3 $fabric: wake-ups of data threads more, for 1000 pages" \
			"$(calculate 'a * 1000 / b' "$more" "$pages")" '' ${2:+at-most $2}
		# shellcheck disable=SC2086
		figure_add "3 $fabric: CPU of data threads more, for a page" "$(calculate 'a / b' "$us" "$pages")" us ${3:+at-most $3}
	done <"$W/looks"
}

figures_split() {
	local round scheme
	for ((round = 0; round < figures_rounds; round++)); do
		figures_far batch --scheme batch-remote && figures_far split --scheme split || return
	done
	for scheme in batch split; do
		figure_add "4 $scheme: a fault, p50" "$(series_least fault_$scheme)" us
		figure_add "4 $scheme: a fault, p99" "$(series_least fault_p99_$scheme)" us
		figure_add "4 $scheme: accesses" "$(series_most rate_$scheme)" 1/s
	done
}

# The longest access is at least as long as the first one stood that wanted the dead node's bytes.
figures_death() {
	local died=process status=0 pages
	if [ -n "$figures_full" ] && [ "${SPACES:-1}" = 1 ]; then died=guest; fi
	begin 0 death 500 "
		FARMEM_STATS_FILE=$SCRATCH/death.stats farmem run --fabric verbs --local 4M --region-size 4M -- \
			\$FM_BUILD/bench/access --size 10M --reads 100 --accesses 6000 --warm-up 100
		status=\$?
		cat $SCRATCH/death.stats
		exit \$status"
	local death_log=$LOG
	on 0 300 "until farmem top --once --json | grep -o 'swap_in_pages\":[0-9]*' |
			grep '[5-9][0-9][0-9]\$\|[0-9][0-9][0-9][0-9]\$'; do sleep 0.2; done" || fail "the program does not read" || return
	pages=$(sed -n 's/.*swap_in_pages":\([0-9]*\).*/\1/p' "$LOG" | tail -n 1)
	if [ "$died" = guest ]; then guest_kill "$(node_guest 2)"; else node_kill 2; fi || fail "cannot kill node 2" || return
	ended 0 death 500 || status=$?
	LOG=$death_log
	[ $status = 0 ] || fail "the program ended with status $status" || return
	dead_were_missed && stat_zero lost_pages && stat_zero crc_mismatches || return
	[ "$pages" -lt 2000 ] || fail "it died when $pages pages were read: too late to be measured" || return
	figure_add "5 a node's $died killed: the longest access" "$(calculate 'a / 1e6' "$(report_of max_ns)")" ms at-most 600
	figure_add "5 reads that were served from the others" "$(($(stat_of degraded_reads) + $(stat_of hedged_wins)))" pages
}

figures_all() {
	local load after part
	load=$(cut -d' ' -f1-3 /proc/loadavg)
	for part in "${figures_parts[@]}"; do
		case $part in
		asleep)
			figures_asleep verbs 25 25 || return
			# what it looks like where a node's threads serve the pages
			[ -z "$figures_full" ] || figures_asleep tcp || return
			;;
		latency | writes | split | death) "figures_$part" || return ;;
		*) fail "$part: parts are latency writes asleep split death" || return ;;
		esac
	done
	after=$(cut -d' ' -f1-3 /proc/loadavg)
	echo "{\"bench\":\"rxe figures\",\"guests\":$GUESTS,\"way\":\"${accelerator_name:-native}\"," \
		"\"rounds\":$figures_rounds,\"cpus\":$(nproc),\"load_before\":\"$load\",\"load_after\":\"$after\"," \
		"\"figures\":[$figures_json]}" | tee "$W/out/figures.json"
	note "$figures_taken figures, $figures_missed missed, load before $load, after $after"
}

figures_all || return
[ -z "$figures_full" ] || [ $figures_missed = 0 ] || return 1
