# A solver: millions of small blocks.
kind="scientific" packages="z3"
prepare() { python3 - >"$W/p.smt2" <<-'END'
	n = 10
	for i in range(n):
	    for j in range(n): print(f"(declare-const c{i}_{j} Int) (assert (and (>= c{i}_{j} 1) (<= c{i}_{j} {n})))")
	for i in range(n):
	    print("(assert (distinct", *[f"c{i}_{j}" for j in range(n)], "))"); print("(assert (distinct", *[f"c{j}_{i}" for j in range(n)], "))")
	print(f"(assert (= (+", *[f"(* {i+1} c{i}_{i})" for i in range(n)], ") 303))"); print("(check-sat)")
	END
}
run() { "$@" z3 -smt2 "$W/p.smt2"; }
