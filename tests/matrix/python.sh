# Dictionaries and lists of small objects.
kind="interpreter" packages="python3"
run() {
	"$@" python3 -c '
import hashlib
d = {i * 7919 % 1000003: (i, str(i) * 3) for i in range(400000)}
l = sorted(d.items(), key=lambda kv: kv[1][1])
h = hashlib.sha256()
for k, v in l[::7]: h.update(repr((k, v)).encode())
g = {}
for k, v in d.items(): g.setdefault(k % 9973, []).append(v[0])
print(len(d), h.hexdigest(), sum(max(x) for x in g.values()))'
}
