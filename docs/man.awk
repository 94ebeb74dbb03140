# docs/man.awk: a man page from its template: @VERSION@, and "@OPTIONS name@" lines replaced by the table of that
# name. awk -v version=V -v options=FILE; FILE was written by the program whose table it is.
/^@OPTIONS [a-z]+@$/ {
	lines = 0
	while ((getline line < options) > 0) {
		print line
		lines++
	}
	close(options)
	if (lines == 0) {
		print "man.awk: " options " is empty" > "/dev/stderr"
		exit 1
	}
	next
}
{ gsub(/@VERSION@/, version); print }
