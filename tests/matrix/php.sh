# An allocator of its own in chunks of 2 MiB.
kind="interpreter" packages="php-cli"
run() { "$@" php -d memory_limit=-1 -r '$h = []; for ($i = 0; $i < 500000; $i++) $h[$i * 7919 % 1000003] = str_repeat("v$i", 6); ksort($h); $s = 0; foreach ($h as $k => $v) $s = ($s * 31 + strlen($v) + $k) % 1000000007; echo count($h), " $s\n";'; }
