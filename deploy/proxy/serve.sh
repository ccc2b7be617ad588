#!/bin/sh
# Runs nginx, and has it read its files anew within a second when a site was approved or revoked.
#   serve.sh FOLDER SCRATCH    FOLDER holds nginx.conf, SCRATCH is where nginx writes
set -eu
folder="$1"
scratch="$2"
mkdir -p "$scratch"
# Started as root, nginx goes on as another user, who must be able to enter.
chmod 711 "$scratch"

state() { cat "$folder/nginx.conf" "$folder/sites.map" "$folder/revoked.crl" "$folder/proxy.crt" | cksum; }

nginx -p "$scratch" -c "$folder/nginx.conf" -e stderr -g 'daemon off;' &
pid=$!
trap 'kill -TERM "$pid" 2>/dev/null || true' TERM INT
seen="$(state)"
while kill -0 "$pid" 2>/dev/null; do
  sleep 1 || true
  now="$(state 2>/dev/null || echo "$seen")"
  if [ "$now" != "$seen" ]; then
    # A file that is half written must not end a proxy that works.
    if nginx -t -q -p "$scratch" -c "$folder/nginx.conf" -e stderr; then
      seen="$now"
      kill -HUP "$pid"
    fi
  fi
done
wait "$pid"
