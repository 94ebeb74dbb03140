# tests/e2e/perl_hash.pl COUNT: builds a hash of COUNT keys, changes and deletes some, prints a digest.
# The order of the work does not depend on perl's hash order, so the output is the same in every run.
use strict;
use warnings;

my $count = shift // 100000;
my (%table, $x, $sum, $found);

sub next_key {
	my $i = shift;
	$x = ($x * 1103515245 + 12345) & 0x7fffffff;
	return sprintf("key-%x-%d", $x, $i);
}

sub told {
	print STDERR "perl: $_[0]\n";
}

$x = 42;
for my $i (1 .. $count) {
	my $key = next_key($i);
	$table{$key} = [$i, "value $x of $key " . chr(33 + $x % 90) x (40 + $x % 120)];
	told("filled half") if $i == int($count / 2);
}
told("filled");

$x = 42;
for my $i (1 .. $count) {
	my $key = next_key($i);
	if ($i % 5 == 0) { delete $table{$key} }
	elsif ($i % 7 == 0) { $table{$key}[1] .= " changed " . ($x ^ $i) }
	told("changed half") if $i == int($count / 2);
}
told("changed");

($x, $sum, $found) = (42, 0, 0);
for my $i (1 .. $count) {
	my $entry = $table{next_key($i)} or next;
	die "entry $i holds number $entry->[0]\n" if $entry->[0] != $i;
	$sum = ($sum * 31 + unpack("%32C*", $entry->[1])) % 1000000007;
	$found++;
}
printf "keys %d found %d sum %d\n", scalar(keys %table), $found, $sum;
