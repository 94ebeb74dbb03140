# ci/tidy.awk: the house's rules for C files, one line a finding. Run by ci/tidy:
#
#     awk -f ci/tidy.awk RATCHET LIST FILE...
#
# RATCHET holds "path function lines" of functions allowed to be long, LIST all paths of the tree. Works in mawk,
# gawk and busybox awk. Functions are found by the layout clang-format gives: braces of bodies in column 0.

BEGIN {
	columns_max = 100; function_lines_max = 70; file_lines_max = 800

	# DESIGN section 3: who may include whom; each room may also include itself.
	may["apps"] = " include farmem/agent lb rpc base "
	may["farmem"] = " include lb ec rpc base "
	may["farmem/agent"] = " include farmem lb ec rpc base "
	may["memnode"] = " include lb ec rpc base "
	may["lb"] = " include rpc base "
	may["rpc"] = " include base "
	may["ec"] = " include base "
	may["base"] = " include "
	may["include"] = " "
	# What apps and agent say to each other lies in these, not in a room's inside.
	contract = " farmem/mailbox.h farmem/catalog.h farmem/profile_file.h "

	everywhere = " strcpy strcat sprintf vsprintf gets "
	in_products = " strtok atoi atol sleep usleep "
	instead["strcpy"] = "snprintf or memcpy"
	instead["strcat"] = "snprintf"
	instead["sprintf"] = instead["vsprintf"] = "snprintf"
	instead["gets"] = "fgets"
	instead["strtok"] = "strcspn"
	instead["atoi"] = instead["atol"] = "parse_count of base/options.h"
	instead["sleep"] = instead["usleep"] = "futex_wait, poll with a timeout, or clock_pause"
	in_process = " malloc calloc realloc free strdup strndup asprintf fopen fdopen printf fprintf " \
		"vfprintf puts fputs perror "
	instead["malloc"] = instead["calloc"] = instead["realloc"] = "mem_map of base/mem.h"
	instead["strdup"] = instead["strndup"] = instead["asprintf"] = "an array and snprintf"
	instead["free"] = "mem_unmap of base/mem.h"
	instead["fopen"] = instead["fdopen"] = "open and read"
	instead["printf"] = instead["fprintf"] = instead["vfprintf"] = "log_* of base/log.h"
	instead["puts"] = instead["fputs"] = instead["perror"] = "log_* of base/log.h"
}

function say(line, text)
{
	printf "%s:%d: %s\n", path, line, text
}

function room_of(file)
{
	if (file ~ /^farmem\/agent\//)
		return "farmem/agent"
	if (file ~ /^include\//)
		return "include"
	return file ~ /\// ? substr(file, 1, index(file, "/") - 1) : ""
}

# The line without comments and without what is between quotes.
function stripped(s,    out, token)
{
	out = ""
	while (s != "") {
		if (in_comment) {
			if (!index(s, "*/"))
				return out
			s = substr(s, index(s, "*/") + 2)
			in_comment = 0
			out = out " "
		} else if (match(s, /\/\*|\/\/|"|'/)) {
			token = substr(s, RSTART, RLENGTH)
			out = out substr(s, 1, RSTART - 1)
			s = substr(s, RSTART + RLENGTH)
			if (token == "//")
				return out
			if (token == "/*")
				in_comment = 1
			else if (match(s, token == "\"" ? "^([^\"\\\\]|\\\\.)*\"" : "^([^'\\\\]|\\\\.)*'")) {
				s = substr(s, RLENGTH + 1)
				out = out token token
			}
		} else {
			out = out s
			s = ""
		}
	}
	return out
}

function check_width(line,    i, c, width)
{
	if (length(line) <= columns_max && line !~ /\t/)
		return
	gsub(/[\200-\277]/, "", line) # continuation bytes of UTF-8 take no column
	width = 0
	for (i = 1; i <= length(line); i++)
		width = substr(line, i, 1) == "\t" ? width - width % 8 + 8 : width + 1
	if (width > columns_max)
		say(FNR, width " columns: at most " columns_max)
}

function check_include(line,    file, target)
{
	if (line ~ /<grpc/ && path !~ /^rpc\/ctl_[^\/]*$/)
		say(FNR, "<grpc/...> is included by rpc/ctl_* only")
	if (line ~ /<(infiniband|rdma)\// && path !~ /^(rpc\/fabric_verbs|memnode\/data_verbs)[^\/]*$/)
		say(FNR, "<infiniband/...> is included by rpc/fabric_verbs* and memnode/data_verbs* only")
	if (line !~ /^#[ \t]*include[ \t]*"/)
		return
	file = line
	sub(/^[^"]*"/, "", file)
	sub(/".*$/, "", file)
	if (file ~ /\.\.\//) {
		say(FNR, "\"" file "\": paths are from the top of the tree")
		return
	}
	if (file == "ec/ec.h")
		includes_ec = 1
	if (file == "rpc/fabric.h")
		includes_fabric = 1
	if (is_test || !(room in may) || file !~ /\//)
		return
	target = room_of(("include/" file) in known ? "include/" file : file)
	if (target == room || index(may[room], " " target " "))
		return
	if (room == "apps" && index(contract, " " file " "))
		return
	say(FNR, "\"" file "\": " room " may not include " target " (DESIGN section 3)")
}

# Calls are indented; what begins in column 0 is a declaration. farmem/front*.c IS malloc: its calls go to itself.
function check_calls(code,    rest, name, before)
{
	if (code !~ /^[ \t]/)
		return
	rest = code
	while (match(rest, /[A-Za-z_][A-Za-z0-9_]*[ ]?\(/)) {
		name = substr(rest, RSTART, RLENGTH - 1)
		sub(/ $/, "", name)
		before = RSTART > 1 ? substr(rest, RSTART - 1, 1) : " "
		rest = substr(rest, RSTART + RLENGTH)
		if (before ~ /[.>A-Za-z0-9_]/)
			continue
		if (path ~ /^farmem\/front/ && name ~ /^(malloc|calloc|realloc|free)$/)
			continue
		if (index(everywhere, " " name " ") || (!is_test && index(in_products, " " name " ")) ||
			(no_heap && index(in_process, " " name " ")))
			say(FNR, name "() is banned here: use " instead[name])
	}
}

function close_function(    key)
{
	key = path " " function_name
	function_lines = FNR - function_begin + 1
	seen[key] = 1
	if (key in allowed) {
		if (function_lines > allowed[key])
			say(function_begin, function_name "() grew to " function_lines " lines from " \
				allowed[key] ": make it shorter")
		else if (function_lines <= function_lines_max)
			say(function_begin, function_name "() is short now: take it out of ci/tidy.ratchet")
		else if (function_lines < allowed[key])
			say(function_begin, function_name "() shrank: write " function_lines \
				" into ci/tidy.ratchet")
	} else if (function_lines > function_lines_max)
		say(function_begin, function_name "() has " function_lines " lines: at most " \
			function_lines_max)
	function_begin = 0
}

function check_function(line, code,    name)
{
	if (function_begin && line ~ /^}/)
		close_function()
	else if (line ~ /^{/ || line ~ /^[A-Za-z].*\)[ ]*{$/)
		function_begin = FNR
	if (code ~ /^[A-Za-z_].*\(/) {
		name = code
		sub(/[ ]*\(.*$/, "", name)
		sub(/^.*[ *]/, "", name)
		if (name ~ /^[A-Z]+$/) { # TEST(name)
			name = code
			sub(/^[A-Z]+\(/, "", name)
			sub(/[,)].*$/, "", name)
		}
		if (name != "__attribute__" && name != "")
			function_name = name
	}
}

function end_file()
{
	if (path == "")
		return
	if (lines > file_lines_max)
		say(lines, lines " lines in one file: at most " file_lines_max)
	if (room == "farmem" && includes_ec && includes_fabric && !is_test &&
		path !~ /^farmem\/spanset(_[a-z]+)?\.c$/ && path != "farmem/catalog.h")
		say(1, "includes both ec/ec.h and rpc/fabric.h: the joint is farmem/spanset*.c")
}

function begin_file()
{
	end_file()
	path = FILENAME
	sub(/^\.\//, "", path)
	room = room_of(path)
	is_test = path ~ /_(test|fuzz|bench)\.[ch]$/ || path ~ /^(tests|bench)\// || path == "base/test.h"
	no_heap = !is_test && (room == "base" || room == "ec" || room == "farmem" || path ~ /^rpc\/fabric/)
	in_comment = function_begin = includes_ec = includes_fabric = 0
	function_name = "?"
	if (path ~ /\.c$/ && $0 !~ /^\/\*/)
		say(1, "does not begin with a comment that says what the file is for")
}

FILENAME == ARGV[1] {
	if ($0 !~ /^#/ && NF == 3)
		allowed[$1 " " $2] = $3
	next
}
FILENAME == ARGV[2] {
	known[$0] = 1
	next
}
FNR == 1 {
	begin_file()
}
{
	lines = FNR
	check_width($0)
	if ($0 ~ /^#[ \t]*include/)
		check_include($0)
	code = stripped($0)
	check_calls(code)
	check_function($0, code)
}
END {
	end_file()
	for (key in allowed)
		if (!(key in seen)) {
			split(key, parts, " ")
			printf "%s: %s() is not there any more: take it out of ci/tidy.ratchet\n",
				parts[1], parts[2]
		}
}
