# Packing a history with wide delta windows.
kind="tool" packages="git"
prepare() {
	git init -q "$W/repo"
	(cd "$W/repo" && git config user.email a@b && git config user.name n && for i in $(seq 12); do data 4 $i | base64 >f$((i % 4)) && git add . && git commit -q -m "$i"; done)
}
run() { (cd "$W/repo" && "$@" git pack-objects --all --window=30 --depth=20 --threads=2 --no-reuse-delta --no-reuse-object --stdout </dev/null 2>/dev/null >"$W/pack") && git -C "$W/repo" index-pack --stdin <"$W/pack" >/dev/null && git -C "$W/repo" fsck --full 2>&1 | tail -1; git -C "$W/repo" rev-parse HEAD | cut -c1-2 | tr -d '0-9a-f' && echo checked; }
