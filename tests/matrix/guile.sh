# The Boehm collector: scans memory conservatively, with signals.
kind="interpreter" packages="guile-3.0"
run() { "$@" guile --no-auto-compile -c '(define h (make-hash-table)) (do ((i 0 (+ i 1))) ((= i 300000)) (hashv-set! h (modulo (* i 7919) 1000003) (number->string i))) (display (hash-fold (lambda (k v s) (modulo (+ s k (string-length v)) 1000000007)) 0 h)) (newline)'; }
