#!/bin/sh
# Makes, once, what every other service needs: the federation's keys, Grafana's password, and folders that they may write.
# The only container that runs as root, without network, and with no right but to hand files to their owners.
set -eu
umask 077
owner="${FEDREBASIN_USER:-10001:10001}"
proxy="${FEDREBASIN_PROXY:-proxy:8443}"
if [ ! -f /run.toml ]; then
  echo "FEDREBASIN_RUN_CONFIG is ${FEDREBASIN_RUN_CONFIG:-not set}: expected a file of settings, got none; the engine" \
    "makes a folder in place of a file that is not there. Remove that folder, write the file (docs/settings.md)," \
    "and start again" >&2
  exit 11
fi
if [ ! -e /federation/federation.toml ]; then
  # With sites on the list it is no start that was broken off: who deleted their authority's key would have lost them all.
  if grep -q '"name"' /federation/sites.json 2>/dev/null; then
    echo "federation.toml is gone, and sites.json lists sites: nothing is made in their place. Take the operator's copy of" \
      "it, or the one of your backup: docker compose run --rm --no-deps --entrypoint cp certificates" \
      "/federation/operator/federation.toml /federation/; or begin anew, with new keys, and every site asks anew:" \
      "docker compose down --volumes" >&2
    exit 11
  fi
  # What a start that was broken off left behind; the folders themselves are volumes.
  find /federation -mindepth 1 -type f -delete
  fedrebasin server init --folder /federation --proxy "$proxy" --superlink superlink:8000 \
    --listen 0.0.0.0:8443 --image "${FEDREBASIN_IMAGE:-}" --run-config /run.toml
fi
made_for="$(sed -n 's/^proxy = "\(.*\)"$/\1/p' /federation/federation.toml)"
if [ "$made_for" != "$proxy" ]; then
  echo "FEDREBASIN_PROXY is $proxy, and this federation was made for $made_for, which stands in the" \
    "proxy's certificate and in every kit. Set it back; or begin anew, with new keys, and every site asks anew:" \
    "docker compose down --volumes" >&2
  exit 11
fi
if [ ! -s /grafana/admin-password ]; then
  python -c 'import secrets; print(secrets.token_urlsafe(18), end="")' >/grafana/admin-password
fi
chown -R "$owner" /federation /runs /state /sites/*
chown -R 472:0 /grafana /grafana-data
chown -R 65534:65534 /prometheus
echo "Grafana: http://127.0.0.1:${FEDREBASIN_GRAFANA_PORT:-3000}  user: admin  password: $(cat /grafana/admin-password)"
