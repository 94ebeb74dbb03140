# Objects of a garbage-collected heap.
kind="interpreter" packages="ruby"
run() { "$@" ruby -e 'h = {}; 300000.times { |i| h[(i * 7919) % 1000003] = "v#{i}" * 5 }; a = h.to_a.sort_by { |k, v| [v.size, k] }; s = 0; a.each { |k, v| s = (s * 31 + v.sum + k) % 1000000007 }; puts h.size, s'; }
