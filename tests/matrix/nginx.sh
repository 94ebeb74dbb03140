# A web server that serves from memory-mapped and buffered files, workers forked.
kind="server" packages="nginx-light apache2-utils"
prepare() {
	head -c 200000 /dev/zero | tr '\0' 'x' >"$W/page"
	cat >"$W/nginx.conf" <<-END
		daemon off; master_process off; pid $W/nginx.pid; error_log $W/error.log; user root;
		events { worker_connections 512; }
		http { access_log off; gzip on; gzip_min_length 100; gzip_types text/plain; default_type text/plain;
		  client_body_temp_path $W/b; proxy_temp_path $W/p; fastcgi_temp_path $W/f; uwsgi_temp_path $W/u; scgi_temp_path $W/s;
		  server { listen 127.0.0.1:18089; root $W; } }
	END
}
run() {
	"$@" nginx -c "$W/nginx.conf" >"$W/nginx.log" 2>&1 &
	server $! 127.0.0.1:18089
	ab -q -n 4000 -c 64 -H 'Accept-Encoding: gzip' http://127.0.0.1:18089/page | sed -n 's/^\(Complete\|Failed\) requests: */\1 /p'
	server_end QUIT
}
