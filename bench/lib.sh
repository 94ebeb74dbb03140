# bench/lib.sh: what the scripts that print figures share. Sourced; wants $top, $tiny.

missed=0
# field NAME: the value of NAME=... on the last line of stdin
field() { awk -v name="$1" '{ for (i = 1; i <= NF; i++) if (index($i, name "=") == 1) v = substr($i, length(name) + 2) } END { print v }'; }
median() { sort -g | awk '{ a[NR] = $1 } END { print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", b ? a / b : 0 }'; }
# judge TEXT VALUE at-most|at-least LIMIT: a figure beside its limit; sets missed
judge() {
	local verdict=ok
	awk -v v="$2" -v l="$4" -v how="$3" 'BEGIN { exit !(how == "at-most" ? v <= l : v >= l) }' || verdict=MISSED
	[ $verdict = ok ] || [ -n "$tiny" ] || missed=1
	printf '  %-62s %8s  (%s %s)  %s\n' "$1" "$2" "${3/-/ }" "$4" "$verdict"
}
# told TEXT VALUE: a number without a limit
told() { printf '  %-62s %8s\n' "$1" "$2"; }
machine() {
	printf 'machine: %s, %s CPUs, kernel %s, load %s; build %s' "$(sed -n 's/model name.*: //p' /proc/cpuinfo | head -1)" \
		"$(nproc)" "$(uname -r)" "$(cut -d' ' -f1 /proc/loadavg)" "$(git -C "$top" rev-parse --short HEAD 2>/dev/null || echo none)"
}
