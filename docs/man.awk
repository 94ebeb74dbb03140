# docs/man.awk: a man page from its template: @VERSION@ is filled in; an "@OPTIONS name@" line becomes the program's
# option table in roff, an "@HELP name@" line the flags of its --help, as they are.
#
#     awk -v version=V -v options=FILE -f man.awk TEMPLATE     FILE was written by the program itself

function insert_file(    line, count) {
	while ((getline line < options) > 0) {
		print line
		count++
	}
	close(options)
	return count
}

# From the first line with a flag on.
function insert_help(    line, count) {
	print ".nf"
	while ((getline line < options) > 0) {
		if (!count && line !~ /^ +(-|--)[a-z]/)
			continue
		gsub(/\\/, "\\e", line)
		gsub(/-/, "\\-", line)
		print line
		count++
	}
	close(options)
	print ".fi"
	return count
}

/^@(OPTIONS|HELP) [a-z]+@$/ {
	if (!($0 ~ /^@HELP/ ? insert_help() : insert_file())) {
		print "man.awk: nothing in " options > "/dev/stderr"
		exit 1
	}
	next
}

{ gsub(/@VERSION@/, version); print }
