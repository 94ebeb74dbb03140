# V8: a heap of its own by mmap, JIT code, threads.
kind="interpreter" packages="nodejs"
run() { "$@" node -e 'const m = new Map(); for (let i = 0; i < 300000; i++) m.set(i * 7919 % 1000003, {i, s: ("v" + i).repeat(4)}); const a = [...m].sort((x, y) => x[0] - y[0]); let s = 0; for (const [k, v] of a) s = (s * 31 + k + v.s.length) % 1000000007; console.log(m.size, s)'; }
