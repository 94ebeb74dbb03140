# Dense linear algebra: large arrays by mmap, OpenBLAS threads.
kind="scientific" packages="python3-numpy"
run() {
	"$@" /usr/bin/python3 -c '
import numpy as n
a = n.arange(2500 * 2500, dtype=n.int64).reshape(2500, 2500) % 101
b = (a * 7 + 3) % 97
c = a[:, :600].dot(b[:600, :])
s = n.sort(c, axis=None)
print(int(c.sum()), int(s[len(s) // 3]), int((a.T + b).trace()))'
}
