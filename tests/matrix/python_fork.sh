# multiprocessing with fork: children read what the parent made.
kind="interpreter" packages="python3"
run() {
	"$@" python3 -c '
import multiprocessing as m
data = [str(i * 7919 % 1000003) * 4 for i in range(500000)]
def f(part): return sum(len(x) + int(x[:3]) for x in data[part::4])
m.set_start_method("fork")
with m.Pool(4) as p: print(p.map(f, range(4)))
print(sum(int(x[:3]) for x in data))'
}
