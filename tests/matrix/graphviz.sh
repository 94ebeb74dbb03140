# Layout of a large graph.
kind="tool" packages="graphviz"
prepare() { awk 'BEGIN { srand(3); print "graph g {"; for (i = 0; i < 700; i++) printf "a%d -- a%d; a%d -- a%d;\n", i, int(rand() * 700), i, (i * 7) % 700; print "}" }' >"$W/g.dot"; }
run() { "$@" sfdp -Tplain "$W/g.dot" | md5sum; return "${PIPESTATUS[0]}"; }
