# Matrices.
kind="scientific" packages="octave"
run() { "$@" octave-cli --no-gui -q --eval 'a = reshape(mod(1:4e6, 101), 2000, 2000); b = a(:, 1:500) * a(1:500, :); printf("%d %d %d\n", sum(b(:)), trace(b), sum(sort(a(:))(1:1000)));'; }
