# Lisp: maps its heap at fixed addresses and handles SIGSEGV itself.
kind="compiler" packages="sbcl"
run() { "$@" sbcl --noinform --non-interactive --eval '(let ((h (make-hash-table)) (s 0)) (dotimes (i 300000) (setf (gethash (mod (* i 7919) 1000003) h) (list i (format nil "v~a" i)))) (loop for k being the hash-keys of h using (hash-value v) do (setf s (mod (+ s (* k (length (second v)))) 1000000007))) (format t "~a ~a~%" (hash-table-count h) s))'; }
