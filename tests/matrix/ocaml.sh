# A generational collector with a heap in chunks from malloc.
kind="compiler" packages="ocaml-nox"
prepare() { printf 'let () = let h = Hashtbl.create 1000 in for i = 0 to 400000 do Hashtbl.replace h (i * 7919 mod 1000003) (String.make 40 (Char.chr (65 + i mod 26))) done; let s = ref 0 in List.iter (fun (k, v) -> s := (!s * 31 + k + Char.code v.[0]) mod 1000000007) (List.sort compare (Hashtbl.fold (fun k v l -> (k, v) :: l) h [])); Printf.printf "%%d %%d\\n" (Hashtbl.length h) !s\n' >"$W/m.ml"; cd "$W" && ocamlfind ocamlopt m.ml -o m 2>/dev/null || ocamlopt m.ml -o m; }
run() { "$@" "$W/m"; }
