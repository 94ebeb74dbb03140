# bench/paper.awk: from the lines that bench/paper has gathered to a table beside the paper's figures, JSON and a plot.
#
#     awk -v what=micro -v head=TEXT -v md=FILE -v json=FILE -v svg=FILE -v tiny= -v fabric=tcp -f paper.awk LINES
#
# A line: "scheme=... point=... KEY=VALUE ...", one per phase of one run; what has the same scheme and point is a round
# of the same measurement, and counts by its median. Paper figures: Carbink, OSDI'22; those read off its plots are
# good to about 0.2 kTPS or 0.01x. The table goes to standard output too. Exit status 1: a limit was missed (never with
# tiny). Works in mawk.

function median(scheme, point, key,    n, i, j, t, a) {
	n = count[scheme, point, key]
	if (!n)
		return ""
	for (i = 1; i <= n; i++) {
		t = value[scheme, point, key, i]
		for (j = i - 1; j >= 1 && a[j] > t; j--)
			a[j + 1] = a[j]
		a[j + 1] = t
	}
	return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}

function ratio(a, b) { return a == "" || b == "" || b == 0 ? "" : a / b }
function shown(x, format) { return x == "" ? "-" : sprintf(format, x) }
# ours beside the paper's, which may be unknown
function beside(x, paper, format) { return shown(x, format) (paper == "" ? "" : " (" paper ")") }
function out(text) { print text; print text >md }
function title(text) { out(""); out(text); out("") }

# The first row of a table: names, separated by |
function columns(text,    n, parts, i, rule) {
	n = split(text, parts, "|")
	rule = "|"
	for (i = 1; i <= n; i++)
		rule = rule " --- |"
	out("| " text " |")
	out(rule)
}

# A figure of the issue beside its limit.
function judge(text, x, how, limit,    met) {
	if (x == "")
		return
	met = how == "at most" ? x <= limit : x >= limit
	if (!met && tiny == "")
		missed = 1
	verdicts[++verdicts_count] = sprintf("| %s | %.3f | %s %s | %s |", text, x, how, limit, met ? "met" : "MISSED")
}

function print_verdicts(    i) {
	if (!verdicts_count)
		return
	title("Limits of issue 5" (tiny == "" ? "" : " (a run of this size says nothing about them)"))
	columns("figure|here|limit|")
	for (i = 1; i <= verdicts_count; i++)
		out(verdicts[i])
}

# Far memory a scheme holds, without what retained duplicates of near pages hold, their copies or share of parities
# included. What is dead stays in, with its share. The code is 4+2.
function far_of(scheme, point,    used, kept, copies) {
	used = median(scheme, point, "slots_used_bytes")
	if (used == "")
		return ""
	kept = median(scheme, point, "retained_bytes")
	copies = scheme == "none" ? 1 : scheme == "replicate" ? 3 : 1.5
	return used - kept * copies
}
# What none holds; nothing to be compared with where almost all is near.
function far_base(point,    x) { x = far_of("none", point); return x >= 1048576 ? x : "" }
function far_ratio(scheme, point) { return ratio(far_of(scheme, point), far_base(point)) }
function far_all(scheme, point) { return ratio(median(scheme, point, "slots_used_bytes"), far_base(point)) }
function against_none(scheme, point, key) { return ratio(median(scheme, point, key), median("none", point, key)) }

BEGIN {
	order_count = split("none replicate split 2pc batch-off batch-local batch-remote", order, " ")
	title_of["none"] = "none"; title_of["replicate"] = "replication x3"; title_of["split"] = "split (Hydra)"
	title_of["2pc"] = "2pc"; title_of["batch-off"] = "batch, nothing reclaimed"
	title_of["batch-local"] = "batch-local"; title_of["batch-remote"] = "batch-remote"
	split("none 7.3 replicate 3.6 split 4.3 2pc 3.2 batch-local 5.6 batch-remote 6.0", p, " ")
	for (i = 1; i < 13; i += 2)
		paper_peak[p[i]] = p[i + 1]
	# p99 at 1.0, 2.75, 3.5 and 5.7 of none's 7.3 Mops
	split("none replicate split 2pc batch-local batch-remote", s, " ")
	split("84 91 101 -|80 103 116 -|101 118 154 -|89 101 - -|82 119 146 182|79 94 117 169", p, "|")
	for (i = 1; i <= 6; i++) {
		split(p[i], q, " ")
		for (j = 1; j <= 4; j++)
			if (q[j] != "-")
				paper_p99[s[i], j - 1] = q[j]
	}
	# Table 2: two threads of compaction
	paper_far["batch-off"] = 3.03; paper_far["batch-local"] = 2.35; paper_far["batch-remote"] = 1.83
	paper_far["none"] = 1
	paper_cores["batch-local"] = 0.53; paper_cores["batch-remote"] = 2.10
	# Figure 7, Mops, of none's
	split("none 1.61 2.24 3.52 8.61 36.2|replicate .63 .82 1.33 3.27 25.5|split .80 1.09 1.76 4.84 31.6|batch-remote 1.19 1.50 2.36 6.56 30.7", p, "|")
	split("0.00 0.60 0.80 0.99 1.20", x, " ")
	for (i = 1; i <= 4; i++) {
		split(p[i], q, " ")
		for (j = 1; j <= 5; j++)
			paper_skew[q[1], x[j]] = q[j + 1]
	}
	# Figure 8a, kTPS by local memory
	split("none 29.8 38.6 46.9 53.4 56.3 58.4 58.4|replicate 12.1 18.3 27.9 43.1 54.8 57.3 56.9|split 15.6 22.4 33.9 47.6 54.4 57.4 56.4|2pc 11.4 16.8 27.0 42.8 54.7 57.6 57.0|batch-local 20.4 28.2 37.4 46.9 52.9 57.2 56.6|batch-remote 23.1 30.0 38.8 48.4 53.6 57.5 56.5", p, "|")
	split("10 20 30 40 50 70 100", x, " ")
	for (i = 1; i <= 6; i++) {
		split(p[i], q, " ")
		for (j = 1; j <= 7; j++)
			paper_kv[q[1], x[j]] = q[j + 1]
	}
	split("10 1.85 20 1.86 30 1.86 40 1.86 50 1.81 70 1.68", p, " ")
	for (i = 1; i < 12; i += 2)
		paper_kv_far["batch-remote", p[i]] = p[i + 1]
	split("10 2.56 20 2.6 30 2.67 40 2.6 50 1.80", p, " ")
	for (i = 1; i < 10; i += 2)
		paper_kv_far["batch-local", p[i]] = p[i + 1]
	paper_kv_far["split", "10"] = 1.37; paper_kv_far["replicate", "10"] = 2.6
	printf "" >md
	out(head)
}

{
	scheme = point = ""
	for (i = 1; i <= NF; i++) {
		at = index($i, "=")
		key = substr($i, 1, at - 1)
		text = substr($i, at + 1)
		if (key == "scheme")
			scheme = text
		else if (key == "point")
			point = text
		else if (at) {
			value[scheme, point, key, ++count[scheme, point, key]] = text + 0
			if (!((scheme, point, key) in known_key)) {
				known_key[scheme, point, key] = 1
				keys[scheme, point] = keys[scheme, point] " " key
			}
		}
	}
	if (!(scheme in seen_scheme))
		seen_scheme[scheme] = 1
	if (!(point in seen_point)) {
		seen_point[point] = 1
		points[++points_count] = point
	}
	if (!((scheme, point) in seen_row)) {
		seen_row[scheme, point] = 1
		rows[++rows_count] = scheme SUBSEP point
	}
}

# Points that begin with a prefix, by the number that follows it, which x[] gets; returns how many.
function points_of(prefix, names, x,    i, j, n, number) {
	n = 0
	for (i = 1; i <= points_count; i++) {
		if (index(points[i], prefix) != 1)
			continue
		number = substr(points[i], length(prefix) + 1)
		for (j = n++; j >= 1 && x[j] + 0 > number + 0; j--) {
			x[j + 1] = x[j]
			names[j + 1] = names[j]
		}
		x[j + 1] = number
		names[j + 1] = points[i]
	}
	return n
}

# ---- the plot: one line per series; a point is data[series, i] = "x y" ----
function svg_text(x, y, style, text) {
	printf "<text x=\"%.1f\" y=\"%.1f\" font-family=\"Helvetica,Arial,sans-serif\" %s>%s</text>\n", x, y, style, text >svg
}
function px(x) { return 70 + (x - x_min) / (x_max - x_min) * 500 }
function py(y) {
	y = logarithmic ? log(y < y_min ? y_min : y) / log(10) : y
	return 360 - (y - low) / (high - low) * 320
}
function add(series, x, y) {
	if (x == "" || y == "" || (logarithmic && y <= 0))
		return
	if (!series_points[series]++)
		series_names[++series_count] = series
	plot_x[series, series_points[series]] = x
	plot_y[series, series_points[series]] = y
	if (series_count == 1 && series_points[series] == 1)
		x_min = x_max = x + 0
	if (y_min == "" || y < y_min) y_min = y + 0
	if (y > y_max) y_max = y + 0
	if (x < x_min) x_min = x + 0
	if (x > x_max) x_max = x + 0
}
function tick(v) { return v >= 1e6 ? sprintf("%.1fM", v / 1e6) : v >= 1e4 ? sprintf("%.0fk", v / 1e3) : v >= 100 ? sprintf("%.0f", v) : sprintf("%.3g", v) }
function draw_axes(x_text, y_text,    i, v) {
	for (i = 0; i <= 4; i++) {
		v = low + (high - low) * i / 4
		printf "<line x1=\"70\" x2=\"570\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", 360 - i * 80, 360 - i * 80 >svg
		svg_text(64, 364 - i * 80, "font-size=\"11\" fill=\"#555\" text-anchor=\"end\"", tick(logarithmic ? exp(v * log(10)) : v))
		v = x_min + (x_max - x_min) * i / 4
		svg_text(70 + i * 125, 378, "font-size=\"11\" fill=\"#555\" text-anchor=\"middle\"", tick(v))
	}
	svg_text(320, 396, "font-size=\"12\" fill=\"#333\" text-anchor=\"middle\"", x_text)
	svg_text(70, 24, "font-size=\"13\" fill=\"#333\"", y_text)
}
# The next number up that four lines divide well.
function round_up(v,    step, i, nice) {
	split("1 1.2 1.6 2 2.4 3.2 4 6 8 10", nice, " ")
	for (step = 1e-6; step * 10 < v; step *= 10)
		;
	for (i = 1; nice[i] * step < v; i++)
		;
	return nice[i] * step
}
function draw(x_text, y_text,    i, j, name, path, colours) {
	if (!series_count)
		return
	split("#7f7f7f #1f77b4 #ff7f0e #9467bd #8c564b #2ca02c #d62728 #17becf", colours, " ")
	if (x_max == x_min)
		x_max = x_min + 1
	low = logarithmic ? log(y_min) / log(10) : 0
	high = logarithmic ? log(y_max) / log(10) : round_up(y_max)
	if (high <= low)
		high = low + 1
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 410\" width=\"760\" height=\"410\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n" >svg
	draw_axes(x_text, y_text)
	for (i = 1; i <= series_count; i++) {
		name = series_names[i]
		path = ""
		for (j = 1; j <= series_points[name]; j++)
			path = path sprintf("%s%.1f %.1f", j == 1 ? "M" : "L", px(plot_x[name, j]), py(plot_y[name, j]))
		printf "<path fill=\"none\" stroke-width=\"1.6\" stroke=\"%s\" d=\"%s\"/>\n", colours[(i - 1) % 8 + 1], path >svg
		svg_text(582, 34 + 18 * i, "font-size=\"12\" fill=\"" colours[(i - 1) % 8 + 1] "\"", name)
	}
	print "</svg>" >svg
	close(svg)
}

function write_json(    i, j, n, parts, row, words) {
	gsub(/"/, "'", head)
	words = head
	gsub(/\n/, " ", words)
	printf "{\"bench\":\"paper %s\",\"what\":\"%s\",\"rows\":[", what, words >json
	for (i = 1; i <= rows_count; i++) {
		split(rows[i], row, SUBSEP)
		printf "%s\n{\"scheme\":\"%s\",\"point\":\"%s\",\"rounds\":%d", (i > 1 ? "," : ""), row[1], row[2], \
			count[row[1], row[2], "wall_s"] >json
		n = split(keys[row[1], row[2]], parts, " ")
		for (j = 1; j <= n; j++)
			printf ",\"%s\":%.10g", parts[j], median(row[1], row[2], parts[j]) >json
		printf "}" >json
	}
	printf "\n]}\n" >json
	close(json)
}

# ---- the tables ----
function micro_speed(    i, j, s, n, names, x, line, k) {
	title("Throughput, closed loop, and latency at equal offered load (open loop), us; half reads, half writes; the paper's in brackets")
	line = "scheme|peak kops/s|of none's"
	n = points_of("open-", names, x)
	for (j = 1; j <= n; j++)
		line = line sprintf("|%.0f k/s: p50|p99|p99.9", median("none", names[j], "offered_per_s") / 1e3)
	columns(line)
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		if (!(s in seen_scheme))
			continue
		line = "| " title_of[s] " | " shown(median(s, "peak", "ops_per_s") / 1e3, "%.1f") " | " \
			beside(against_none(s, "peak", "ops_per_s"), s in paper_peak ? sprintf("%.2f", paper_peak[s] / 7.3) : "", "%.2f")
		for (j = 1; j <= n; j++) {
			if (median(s, names[j], "share_done") < 0.95) {
				line = line " | saturated | |"
				continue
			}
			line = line " | " shown(median(s, names[j], "p50_ns") / 1e3, "%.1f") " | " \
				beside(median(s, names[j], "p99_ns") / 1e3, paper_p99[s, x[j]], "%.0f") " | " \
				shown(median(s, names[j], "p99_9_ns") / 1e3, "%.0f")
			add(title_of[s], median(s, names[j], "offered_per_s") / 1e3, median(s, names[j], "p99_ns") / 1e3)
		}
		out(line " |")
	}
	for (j = 1; j <= n; j++)
		if (median("split", names[j], "share_done") >= 0.95)
			judge(sprintf("2. p99 at %.0f k/s, batch-remote of split's (%s)", median("split", names[j], "offered_per_s") / 1e3, fabric), \
				ratio(median("batch-remote", names[j], "p99_ns"), median("split", names[j], "p99_ns")), "at most", 0.71)
	judge("2. peak throughput, batch-remote of split's (" fabric ")", \
		ratio(median("batch-remote", "peak", "ops_per_s"), median("split", "peak", "ops_per_s")), "at least", 1.48)
	judge("3. peak throughput, batch-remote of none's", against_none("batch-remote", "peak", "ops_per_s"), "at least", 0.85)
}

function micro_far(    i, s, a, b) {
	title("Far memory, of what none holds (closed loop); retained: duplicates of near pages, kept so that clean pages leave without a write")
	columns("scheme|without retained|with retained|dead bytes, of data|--retain 0: far memory|dead, of data")
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		if (!(s in seen_scheme))
			continue
		out("| " title_of[s] " | " beside(far_ratio(s, "peak"), paper_far[s], "%.2f") " | " shown(far_all(s, "peak"), "%.2f") " | " \
			shown(ratio(median(s, "peak", "dead_bytes"), median(s, "peak", "far_bytes")), "%.2f") " | " \
			beside(far_ratio(s, "bare"), paper_far[s], "%.2f") " | " \
			shown(ratio(median(s, "bare", "dead_bytes"), median(s, "bare", "far_bytes")), "%.2f") " |")
	}
	a = far_ratio("batch-off", "bare")
	judge("1. far memory when nothing is reclaimed, --retain 0: as large as the paper's (3.03)", a, "at least", 2.5)
	for (i = 1; i <= 2; i++) {
		s = i == 1 ? "peak" : "bare"
		b = i == 1 ? "without retained" : "--retain 0"
		judge("1. far memory, batch-remote, " b, far_ratio("batch-remote", s), "at most", 1.6)
		judge("1. far memory, batch-local, " b, far_ratio("batch-local", s), "at most", 2.0)
	}
	judge("1. peak throughput, batch-local of none's (the paper's)", against_none("batch-local", "peak", "ops_per_s"), "at least", 0.77)
	judge("1. throughput with compaction of that without, --retain 0", \
		ratio(median("batch-remote", "bare", "ops_per_s"), median("batch-off", "bare", "ops_per_s")), "at least", 0.95)
}

function micro_cost(    i, s, wall, freed, wire, own) {
	title("What it costs, --retain 0, closed loop: cores in use, bytes on the wire, and compaction's share (the paper's cores are per memory node)")
	columns("scheme|program cores|agent cores|cores per node|wire Gbit/s|bytes per op|merges/s|spans reclaimed/s|merge bytes per reclaimed data span, in spans|agent+node CPU us per reclaimed span")
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		wall = median(s, "bare", "wall_s")
		if (!(s in seen_scheme) || wall == "")
			continue
		freed = median(s, "bare", "merge_freed_slots")
		wire = (median(s, "bare", "fetch_count") + median(s, "bare", "swap_out_pages") * \
			(s == "none" ? 1 : s == "replicate" ? 3 : 1.5)) * 4096 + median(s, "bare", "merge_bytes")
		own = (median(s, "bare", "cpu_agent_s") + median(s, "bare", "cpu_nodes_s")) - median(s, "bare", "ops") * \
			ratio(median("batch-off", "bare", "cpu_agent_s") + median("batch-off", "bare", "cpu_nodes_s"), \
				median("batch-off", "bare", "ops"))
		out(sprintf("| %s | %.2f | %.2f | %s | %.2f | %.0f | %s | %s | %s | %s |", title_of[s], median(s, "bare", "cpu_program_s") / wall, \
			median(s, "bare", "cpu_agent_s") / wall, \
			beside(median(s, "bare", "cpu_nodes_s") / wall / 7, paper_cores[s], "%.3f"), wire * 8 / wall / 1e9, \
			ratio(wire, median(s, "bare", "ops")), shown(ratio(median(s, "bare", "merged_pairs"), wall), "%.0f"), \
			shown(ratio(freed, wall), "%.0f"), \
			freed > 0 ? beside(median(s, "bare", "merge_bytes") / 4096 / freed, "1.0", "%.2f") : "-", \
			freed > 0 ? sprintf("%.1f", own * 1e6 / freed) : "-"))
		if (freed > 0)
			judge("5. merge bytes per reclaimed data span, in spans, " s, median(s, "bare", "merge_bytes") / 4096 / freed, "at most", 1.0)
	}
	out("")
	out("Bytes on the wire are counted by what moved (pages read, pages written times the scheme's copies or parities, partial")
	out("parities), not by what the fabric's headers add.")
}

# A table of points x schemes: value and its ratio to none's beside the paper's.
function grid(prefix, unit, scale, key, format, paper,    i, j, s, n, names, x, line) {
	n = points_of(prefix, names, x)
	line = "scheme"
	for (j = 1; j <= n; j++)
		line = line "|" x[j] unit
	columns(line)
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		if (!(s in seen_scheme))
			continue
		line = "| " title_of[s]
		for (j = 1; j <= n; j++) {
			if (median(s, names[j], key) == "") {
				line = line " | -"
				continue
			}
			line = line " | " shown(median(s, names[j], key) / scale, format)
			if (s != "none" && median("none", names[j], key) != "")
				line = line ", " beside(against_none(s, names[j], key), \
					(s, x[j]) in paper ? sprintf("%.2f", paper[s, x[j]] / paper["none", x[j]]) : "", "%.2f") "x"
			add(title_of[s], x[j], median(s, names[j], key) / scale)
		}
		out(line " |")
	}
}

function far_grid(prefix, unit, paper,    i, j, s, n, names, x, line) {
	n = points_of(prefix, names, x)
	line = "scheme"
	for (j = 1; j <= n; j++)
		line = line "|" x[j] unit
	columns(line)
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		if (!(s in seen_scheme))
			continue
		line = "| " title_of[s]
		for (j = 1; j <= n; j++)
			line = line " | " beside(far_ratio(s, names[j]), (s, x[j]) in paper ? paper[s, x[j]] : "", "%.2f") \
				", all " shown(far_all(s, names[j]), "%.2f")
		out(line " |")
	}
}

function kv(    n, names, x, j) {
	title("Transactions (3 reads, 3 writes of 4 KiB) per second, thousands, by local memory; of none's, the paper's in brackets")
	grid("local-", " %", 1e3, "ops_per_s", "%.2f", paper_kv)
	title("Far memory of none's, without retained duplicates (the paper's in brackets), and all")
	far_grid("local-", " %", paper_kv_far)
	n = points_of("local-", names, x)
	for (j = 1; j <= n; j++)
		if (x[j] <= 50)
			judge("1. key-value store at " x[j] " % local: far memory, batch-remote", far_ratio("batch-remote", names[j]), "at most", 1.6)
	draw("local memory, %", "thousand transactions per second")
}

function graph(    none) {
	title("Connected components: seconds by local memory; of none's. The paper: 90-99 s for all span schemes at every share, 96 s all local")
	grid("local-", " %", 1, "wall_s", "%.2f", none)
	title("Far memory of none's, without retained duplicates, and all (the paper: batch 1.45-1.75, 2pc 1.69-2.83)")
	far_grid("local-", " %", none)
	draw("local memory, %", "seconds")
}

function skew(    i) {
	title("Thousand operations per second, half reads, half writes, by the exponent of the zipfian choice; of none's, the paper's in brackets")
	logarithmic = 1
	grid("skew-", "", 1e3, "ops_per_s", "%.1f", paper_skew)
	draw("zipf exponent", "thousand operations per second (logarithmic)")
}

function recover(    i, j, s, n, names, x, line) {
	title("A memory node killed under load (key-value store, 30 % local)")
	columns("scheme|far data, MiB|noticed, s|full redundancy after, s|rebuilt, MiB|GB/s|disturbed, s|average drop, %|degraded reads|throughput meanwhile, of before")
	n = points_of("size-", names, x)
	for (i = 1; i <= order_count; i++) {
		s = order[i]
		for (j = 1; j <= n && s in seen_scheme; j++) {
			if (median(s, names[j], "whole_ms") == "")
				continue
			out("| " title_of[s] " | " shown(median(s, names[j], "far_bytes") / 1048576, "%.0f") " | " \
				shown(median(s, names[j], "noticed_ms") / 1e3, "%.2f") " | " \
				shown(median(s, names[j], "whole_ms") / 1e3, "%.2f") " | " shown(median(s, names[j], "bytes") / 1048576, "%.0f") " | " \
				shown(median(s, names[j], "gb_per_s"), "%.2f") " | " shown(median(s, names[j], "dip_s"), "%.1f") " | " \
				shown(median(s, names[j], "drop_percent"), "%.0f") " | " shown(median(s, names[j], "degraded_reads"), "%.0f") " | " \
				shown(median(s, names[j], "kept"), "%.2f") " |")
		}
	}
	out("")
	out("The paper, 15 GB (30 %) local: batch disturbed for 0.6 s, average drop 36 %, whole after 9.7 s; replication 0.3 s, 35 %,")
	out("5.7 s; rebuilt at 0.6 GB/s; seconds by far data of 5 / 10 / 20 / 30 / 40 GB: 2.2 / 4.1 / 8.1 / 11.8 / 16.1 (batch),")
	out("2.0 / 3.6 / 6.2 / 8.8 / 11.2 (replication).")
	n = points_of("time-", names, x)
	for (i = 1; i <= order_count; i++)
		for (j = 1; j <= n && order[i] in seen_scheme; j++)
			add(title_of[order[i]], x[j] / 1e3, median(order[i], names[j], "ops"))
	draw("seconds after the kill", "transactions per 100 ms")
}

function swapin(    i, k, n, keys_of, s, line) {
	title("Swap-in latency (fault to page installed), us, and throughput, compaction off and at full speed")
	columns("compaction|kops/s|p10|p25|p50|p75|p90|p95|p99|p99.9|merges/s|far memory MiB")
	n = split("p10 p25 p50 p75 p90 p95 p99 p99_9", keys_of, " ")
	split("10 25 50 75 90 95 99 99.9", quantile, " ")
	for (i = 1; i <= 2; i++) {
		s = i == 1 ? "batch-off" : "batch-remote"
		line = "| " (i == 1 ? "off" : "full speed") " | " shown(median(s, "load", "ops_per_s") / 1e3, "%.1f")
		for (k = 1; k <= n; k++) {
			line = line " | " shown(median(s, "load", "fault_" keys_of[k] "_ns") / 1e3, "%.1f")
			add(i == 1 ? "off" : "full speed", quantile[k], median(s, "load", "fault_" keys_of[k] "_ns") / 1e3)
		}
		out(line " | " shown(ratio(median(s, "load", "merged_pairs"), median(s, "load", "wall_s")), "%.0f") " | " \
			shown(median(s, "load", "slots_used_bytes") / 1048576, "%.0f") " |")
	}
	judge("4. throughput with compaction at full speed, of that without", \
		ratio(median("batch-remote", "load", "ops_per_s"), median("batch-off", "load", "ops_per_s")), "at least", 0.95)
	judge("4. swap-in p99 with compaction at full speed, of that without", \
		ratio(median("batch-remote", "load", "fault_p99_ns"), median("batch-off", "load", "fault_p99_ns")), "at most", 1.10)
	draw("percentile", "swap-in, us")
}

END {
	if (!rows_count) {
		out("nothing was measured")
		exit 1
	}
	if (what == "micro") {
		logarithmic = 1
		micro_speed()
		micro_far()
		micro_cost()
		draw("offered load, thousand operations per second", "p99, us (logarithmic)")
	} else if (what == "skew")
		skew()
	else if (what == "kv")
		kv()
	else if (what == "graph")
		graph()
	else if (what == "recover")
		recover()
	else
		swapin()
	print_verdicts()
	write_json()
	exit missed
}
