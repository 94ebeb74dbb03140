# Associative arrays.
kind="tool" packages="gawk"
run() { "$@" gawk 'BEGIN { for (i = 0; i < 400000; i++) h[i * 7919 % 1000003] = "v" i i i; n = asorti(h, k, "@ind_num_asc"); for (i = 1; i <= n; i++) s = (s * 31 + k[i] + length(h[k[i]])) % 1000000007; print n, s }'; }
