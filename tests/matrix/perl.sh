# A hash of 300,000 strings.
kind="interpreter" packages="perl"
run() { "$@" perl -e 'my %h; for my $i (1..300000) { $h{$i * 7919 % 1000003} = "v$i" x 8 } my $s = 0; for my $k (sort { $a <=> $b } keys %h) { $s = ($s * 31 + length($h{$k}) + $k) % 1000000007 } print scalar(keys %h), " $s\n"'; }
