#!/bin/sh
# nginx with workers, and wrk against it: wrk_load.sh DIRECTORY
# Every request must be answered, and with what it asked for; wrk reports in `rounds`.
cd "$1" || exit 1
mkdir -p www/deep logs
head -c 300 /dev/urandom | base64 >www/small
head -c 3000000 /dev/urandom >www/large
cat >nginx.conf <<END
daemon off;
master_process on;
worker_processes 2;
pid $1/nginx.pid;
error_log $1/logs/error.log;
user root;
events { worker_connections 128; }
http {
    access_log off;
    client_body_temp_path $1/tmp; proxy_temp_path $1/tmp; fastcgi_temp_path $1/tmp;
    uwsgi_temp_path $1/tmp; scgi_temp_path $1/tmp;
    keepalive_requests 1000;
    upstream itself { server 127.0.0.1:8080; keepalive 8; }
    server {
        listen 127.0.0.1:8080;
        listen 127.0.0.1:8443 reuseport;
        root $1/www;
        sendfile on;
        location /through/ {
            proxy_pass http://itself/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }
}
END
nginx -p "$1" -c "$1/nginx.conf" -e "$1/logs/error.log" &
server=$!
until curl -sf -o /dev/null http://127.0.0.1:8080/small; do
    kill -0 "$server" || exit 1
    sleep 0.1
done
rounds=0
while [ ! -e stop ]; do
    for path in small through/small large; do
        wrk -t2 -c8 -d1s --timeout 60s "http://127.0.0.1:8080/$path" >round 2>&1 || exit 1
        cat round >>rounds
        if grep -E 'Socket errors|Non-2xx' round || ! grep -q 'requests in' round; then
            cat round
            exit 1
        fi
    done
    curl -sf http://127.0.0.1:8443/through/large | cmp - www/large || exit 1
    # New workers. The old ones close what wrk would have open, so they have to be gone first.
    old=$(pgrep -P "$server")
    kill -HUP "$server"
    for worker in $old; do
        while kill -0 "$worker" 2>/dev/null; do sleep 0.02; done
    done
    rounds=$((rounds + 1))
    [ "$rounds" = 1 ] && : >ready
done
kill -QUIT "$server"
wait "$server" || exit 1
if grep -E 'emerg|alert|crit' logs/error.log; then
    exit 1
fi
awk '/requests in/ { sum += $1 } END { print sum, "requests" }' rounds >done
