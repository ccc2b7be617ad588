#!/bin/sh
# Runs nginx, and has it read its files anew within a second or two when a site was approved or revoked, and within a few
# when the SuperLink is back at another address: nginx asks for that only when it reads its files.
#   serve.sh FOLDER SCRATCH    FOLDER holds nginx.conf, SCRATCH is where nginx writes
set -eu
folder="$1"
scratch="$2"
mkdir -p "$scratch"
# Started as root, nginx goes on as another user, who must be able to enter.
chmod 711 "$scratch"

# nginx opens standard output by its name: a socket, as systemd gives, it cannot open so, but a pipe. It ends with us.
rm -f "$scratch/log"
mkfifo "$scratch/log"
cat "$scratch/log" &
exec >"$scratch/log"

state() { cat "$folder/nginx.conf" "$folder/sites.map" "$folder/revoked.crl" "$folder/proxy.crt" | cksum; }

superlink="$(sed -n 's/^ *server \(.*\):[0-9]*;$/\1/p' "$folder/nginx.conf")"
address=""
# A name that is gone while the SuperLink restarts is no change, and nobody waits for who knows no names.
look_up() {
  found="$(timeout 1 getent ahosts "$superlink" | cut -d ' ' -f 1 | sort -u)"
  address="${found:-$address}"
}

# Before nginx reads the same files: a revocation that falls between is seen as a change, not taken for what it has read.
look_up
seen="$(state) $address"
nginx -p "$scratch" -c "$folder/nginx.conf" -e stderr -g 'daemon off;' &
pid=$!
trap 'kill -TERM "$pid" 2>/dev/null || true' TERM INT
while kill -0 "$pid" 2>/dev/null; do
  sleep 1 || true
  look_up
  now="$(state 2>/dev/null) $address" || continue
  if [ "$now" != "$seen" ]; then
    # A file that is half written must not end a proxy that works.
    if nginx -t -q -p "$scratch" -c "$folder/nginx.conf" -e stderr; then
      seen="$now"
      kill -HUP "$pid"
    fi
  fi
done
wait "$pid"
