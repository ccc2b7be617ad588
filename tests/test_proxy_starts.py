"""The proxy goes by the list of revoked certificates as it is, whenever that changes."""

import os
import subprocess
from pathlib import Path

from tests.waiting import wait_until

SERVE = Path(__file__).resolve().parent.parent / "deploy" / "proxy" / "serve.sh"
# What nginx does here: reads its files at its start, and again when it is told to.
NGINX = """#!/bin/sh
case "$*" in *" -t "* | "-t "*) exit 0 ;; esac
look() { cp "$FOLDER/revoked.crl" "$FOLDER/read.part" && mv "$FOLDER/read.part" "$FOLDER/read"; }
trap look HUP
trap 'exit 0' TERM
look
while :; do sleep 0.1; done
"""
# The SuperLink's address is looked up at the start; in that moment, but after nginx if it runs, a site is revoked.
GETENT = """#!/bin/sh
[ -e "$FOLDER/asked" ] && exit 0
touch "$FOLDER/asked"
for _ in 1 2 3 4 5; do [ -e "$FOLDER/read" ] || sleep 0.1; done
echo revoked >"$FOLDER/revoked.crl"
"""


def test_a_revocation_while_the_proxy_starts_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, program in (("nginx", NGINX), ("getent", GETENT)):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("nginx.conf", "sites.map", "proxy.crt", "revoked.crl"):
        (tmp_path / name).write_text("")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}
    proxy = subprocess.Popen(["sh", SERVE, tmp_path, tmp_path / "scratch"], env=environment)
    read = tmp_path / "read"
    try:
        wait_until(lambda: read.exists() and read.read_text() == "revoked\n", 60, "the proxy has read it")
    finally:
        proxy.terminate()
        proxy.wait(60)
