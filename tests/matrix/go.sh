# Go makes its own system calls: its heap is out of reach, and nothing may break.
kind="compiler" packages="golang-go"
prepare() {
	cat >"$W/m.go" <<-'END'
		package main
		import ("fmt"; "sort")
		func main() { m := map[int]string{}; for i := 0; i < 500000; i++ { m[i*7919%1000003] = fmt.Sprint("v", i, i) }; k := make([]int, 0, len(m)); for x := range m { k = append(k, x) }; sort.Ints(k); s := 0; for _, x := range k { s = (s*31 + x + len(m[x])) % 1000000007 }; fmt.Println(len(m), s) }
	END
	(cd "$W" && HOME=$W GOCACHE=$W/cache GO111MODULE=off go build -o m m.go)
}
run() { "$@" "$W/m"; }
