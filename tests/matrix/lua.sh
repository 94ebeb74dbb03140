# Tables and strings.
kind="interpreter" packages="lua5.4"
run() { "$@" lua5.4 -e 'local t = {} for i = 1, 400000 do t[i] = {k = i * 7919 % 1000003, s = ("v" .. i):rep(4)} end table.sort(t, function(a, b) return a.k < b.k end) local s = 0 for i, e in ipairs(t) do s = (s * 31 + e.k + #e.s) % 1000000007 end print(#t, s)'; }
