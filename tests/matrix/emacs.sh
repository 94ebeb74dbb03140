# An editor: its own allocator tricks, a portable dump.
kind="tool" packages="emacs-nox"
run() { "$@" emacs --batch -Q --eval '(let ((h (make-hash-table)) (s 0)) (dotimes (i 200000) (puthash (% (* i 7919) 1000003) (format "v%d" i) h)) (maphash (lambda (k v) (setq s (% (+ s k (length v)) 1000000007))) h) (with-temp-buffer (dotimes (i 100000) (insert (format "%d line\n" i))) (sort-lines t (point-min) (point-max)) (princ (format "%d %d %d\n" (hash-table-count h) s (buffer-size)))))'; }
