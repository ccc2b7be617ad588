"""What a real nginx lets in: a site with a good certificate, and only to Flower's fleet API."""

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from cli.enrolment.authority import Authority, new_authority, pem, read_authority, read_certificate
from cli.enrolment.keys import PrivateKey, new_key, private_pem, read_private
from cli.ports import free_port
from tests.deployment.federation import ROOT, Deployment, is_open
from tests.waiting import wait_until

REFUSED = {400, 403}
# Flower sends two chunks at a time; each may be as large as `client_max_body_size` says.
MOST_UPLOADS = 16
# Nothing of these may be reached by a site.
FORBIDDEN = [
    *("/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"),
    *("/docs", "/openapi.json", "/metrics", "/", "/health/", "/healthz", "/v1/fleet", "/v1/", "/v1/fleetx"),
    *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/../control/list-runs"),
    *("/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol/list-runs", "//v1/control/list-runs"),
    *("/v1/fleet/x/../../control/list-runs", "/V1/FLEET/get-run", "/health?x=/v1/fleet/"),
]


def dial(server: Deployment, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS that trusts the federation, with or without a certificate of one's own."""
    context = ssl.create_default_context(cafile=str(server.server.path / "ca.crt"))
    if certificate is not None and key is not None:
        context.load_cert_chain(certificate, key)
    return context


def status(server: Deployment, context: ssl.SSLContext, method: str = "GET", path: str = "/health") -> int:
    """What the proxy answers to exactly this path; 400 where it breaks the connection off."""
    host, _, port = server.proxy.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    try:
        connection.request(method, path, body=b"" if method == "POST" else None)
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError):
        return 400
    finally:
        connection.close()


def of(server: Deployment, site: str = "site-us") -> ssl.SSLContext:
    """TLS as that site."""
    folder = server.site(site)
    return dial(server, folder.certificate, folder.key)


def signed(
    server: Deployment, folder: Path, sign: Callable[[Authority, PrivateKey], x509.Certificate]
) -> ssl.SSLContext:
    """TLS with a certificate that ``sign`` makes with the federation's authority."""
    key = new_key()
    (folder / "key").write_bytes(private_pem(key))
    (folder / "crt").write_bytes(pem(sign(read_authority(server.server.path), key)))
    return dial(server, folder / "crt", folder / "key")


def test_a_site_reaches_the_superlink(server: Deployment) -> None:
    assert status(server, of(server)) == 200


def test_a_site_without_a_certificate_is_refused(server: Deployment) -> None:
    assert status(server, dial(server, None, None)) in REFUSED


def test_an_expired_certificate_is_refused(server: Deployment, tmp_path: Path) -> None:
    context = signed(server, tmp_path, lambda ca, key: ca.sign_site(key.public_key(), "site-us", -1))
    assert status(server, context) in REFUSED


def test_a_certificate_of_a_foreign_authority_is_refused(server: Deployment, tmp_path: Path) -> None:
    foreign = new_authority("fedrebasin authority")
    context = signed(server, tmp_path, lambda _, key: foreign.sign_site(key.public_key(), "site-us", 1))
    assert status(server, context) in REFUSED


@pytest.mark.parametrize("name", ["site-us2", "site", "SITE-US", "site-us\x00", "x,CN=site-us"])
def test_a_name_that_is_not_enrolled_is_refused(server: Deployment, tmp_path: Path, name: str) -> None:
    context = signed(server, tmp_path, lambda ca, key: ca.sign_site(key.public_key(), name, 1))
    assert status(server, context) in REFUSED


def test_a_servers_certificate_is_no_sites(server: Deployment, tmp_path: Path) -> None:
    context = signed(server, tmp_path, lambda ca, key: ca.sign_server(key.public_key(), "site-us", ["site-us"], 1))
    assert status(server, context) in REFUSED


def test_the_sites_own_signature_makes_no_certificate_for_others(server: Deployment, tmp_path: Path) -> None:
    folder = server.site("site-us")
    site = Authority(read_certificate(folder.certificate), read_private(folder.key))
    context = signed(server, tmp_path, lambda _, key: site.sign_site(key.public_key(), "site-eu", 1))
    assert status(server, context) in REFUSED


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_but_the_fleet_api_and_health_is_reachable(server: Deployment, path: str, method: str) -> None:
    if path.startswith("/health?") and method == "GET":
        assert status(server, of(server), method, path) == 200
    else:
        assert status(server, of(server), method, path) in {400, 403, 404}


def test_the_superlink_itself_would_answer_there(server: Deployment) -> None:
    # Else the test above would pass for a proxy that passes everything.
    context = ssl.create_default_context(cafile=str(server.server.path / "ca.crt"))
    with httpx.Client(verify=context, base_url=f"https://{server.superlink}", trust_env=False) as client:
        assert client.get("/docs").status_code == 200
        assert client.post("/v1/control/list-runs").status_code not in {403, 404}


@pytest.mark.parametrize(("size", "expected"), [(5_243_032, {400, 401, 415, 422}), (9 << 20, {413})])
def test_a_chunk_of_flowers_passes_and_a_larger_body_does_not(
    server: Deployment, size: int, expected: set[int]
) -> None:
    with httpx.Client(verify=of(server), base_url=f"https://{server.proxy}", trust_env=False) as client:
        assert client.post("/v1/fleet/push-object", content=bytes(size)).status_code in expected


def held(folder: Path) -> int:
    """How many files below ``folder`` a process has open; nginx has no names for them."""
    open_files = Path("/proc").glob("[0-9]*/fd/*")
    return sum(_link(each).startswith(f"{folder.resolve()}/") for each in open_files)


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        # Closed since it was listed, or another user's.
        return ""


def test_unfinished_uploads_of_one_site_are_few(server: Deployment) -> None:
    # What nginx has of a body lies in a file, and in a container that is memory.
    body = server.root / "proxy-scratch" / "body"
    (most,) = map(int, re.findall(r"limit_conn connections (\d+);", (server.server.proxy / "nginx.conf").read_text()))
    begun = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: proxy\r\nContent-Length: 8000000\r\n\r\n" + bytes(1 << 20)
    host, _, port = server.proxy.rpartition(":")
    with ExitStack() as uploads:
        for _ in range(most + 8):
            plain = uploads.enter_context(socket.create_connection((host, int(port)), timeout=10))
            tls = uploads.enter_context(of(server).wrap_socket(plain, server_hostname=host))
            # The proxy hangs up on what is too much.
            with suppress(ConnectionError, ssl.SSLError):
                tls.sendall(begun)
        assert 0 < held(body) <= most <= MOST_UPLOADS
        # The other site is not held up by it.
        assert status(server, of(server, "site-eu")) == 200
    wait_until(lambda: status(server, of(server)) == 200, 60, "the uploads that were given up count no longer")


def test_what_is_logged_of_a_request_holds_no_header_and_no_query(server: Deployment) -> None:
    host, _, port = server.proxy.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=of(server), timeout=10)
    connection.request("GET", "/health?token=QUERY", headers={"x-flwr-signature": "HEADER", "Cookie": "COOKIE"})
    assert connection.getresponse().status == 200
    connection.close()
    lines = server.services["proxy"].log.read_text().splitlines()
    (line,) = [json.loads(each) for each in lines if '"status":200' in each][-1:]
    assert (line["site"], line["path"], line["method"]) == ("site-us", "/health", "GET")
    assert not [word for word in ("QUERY", "HEADER", "COOKIE") if word in "\n".join(lines)]


def test_a_flood_of_requests_is_told_to_come_again(server: Deployment) -> None:
    # Where no SuperLink is there, nginx answers by itself: a busy machine is fast enough for a flood.
    n_requests = 900
    with (
        another_proxy(server, subprocess.DEVNULL, superlink=f"127.0.0.1:{free_port()}") as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        of(server, "site-eu").wrap_socket(plain, server_hostname="127.0.0.1") as flooding,
        httpx.Client(verify=of(server), trust_env=False) as other,
    ):
        flooding.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n\r\n" * n_requests)
        told = b""
        while told.count(b"HTTP/1.1 ") < n_requests and (more := flooding.recv(65536)):
            told += more
        assert set(re.findall(rb"HTTP/1\.1 (\d+)", told)) == {b"502", b"503"}
        # The other site is not held up by it.
        assert other.get(f"https://127.0.0.1:{port}/health").status_code == 502


@contextmanager
def another_proxy(server: Deployment, output: int, superlink: str = "") -> Generator[int]:
    """The port of a second proxy, which tells ``output`` what it is asked; it asks ``superlink``, if that is given."""
    port = free_port()
    folder = server.root / f"proxy-{port}"
    shutil.copytree(server.server.proxy, folder)
    text = (folder / "nginx.conf").read_text().replace(f"listen {server.proxy} ", f"listen 127.0.0.1:{port} ")
    text = text.replace(f"server {server.superlink};", f"server {superlink or server.superlink};")
    (folder / "nginx.conf").write_text(text)
    command = [ROOT / "deploy" / "proxy" / "serve.sh", folder, server.root / f"scratch-{port}"]
    proxy = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: is_open("127.0.0.1", port), 60, "the proxy listens")
        yield port
    finally:
        proxy.terminate()
        proxy.wait(60)


def test_the_proxys_certificate_is_refused_under_another_name(server: Deployment) -> None:
    context = of(server)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for"):
        wrap(server, context, "another.example")


def wrap(server: Deployment, context: ssl.SSLContext, name: str) -> None:
    """A handshake with the proxy under ``name``."""
    host, _, port = server.proxy.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        pass


def test_the_proxy_tells_who_asked_where_its_output_is_a_socket_as_under_systemd(server: Deployment) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(20)
        with another_proxy(server, theirs.fileno()) as port, httpx.Client(verify=of(server), trust_env=False) as client:
            theirs.close()
            assert client.get(f"https://127.0.0.1:{port}/health").status_code == 200
            told = ours.recv(4096)
        assert json.loads(told)["site"] == "site-us"
        # All that held its end of the socket is gone with it.
        assert not ours.recv(4096)
