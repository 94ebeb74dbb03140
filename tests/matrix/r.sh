# Vectors of a garbage-collected heap.
kind="scientific" packages="r-base-core"
run() { "$@" R --vanilla --slave -e 'x <- (1:4e6 * 7919) %% 1000003; l <- split(x, x %% 1000); s <- sapply(l, function(v) sum(sort(v)) %% 1000003); cat(length(x), sum(s), x[order(x)][123456], "\n")'; }
