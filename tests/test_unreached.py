"""Each way in which a network keeps a site from the proxy is told with what opens it."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID

from cli.enrolment.authority import Authority, new_authority, pem, read_certificate
from cli.enrolment.keys import new_key, private_pem
from cli.enrolment.layout import SiteFolder
from cli.ports import free_port
from cli.preflight import network
from cli.preflight.finding import Finding
from tests.test_preflight import find, member

Answer = Callable[[socket.socket], object]
HERE = "127.0.0.1"
PAGE = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    """A member of a federation whose proxy is elsewhere."""
    return member(tmp_path_factory.mktemp("site"), "seed")


def told(site: SiteFolder, proxy: str) -> Finding:
    """How the site's check finds the way to ``proxy``."""
    lines = site.membership.read_text().splitlines()
    new = [f'proxy = "{proxy}"' if line.startswith("proxy = ") else line for line in lines]
    site.membership.write_text("\n".join(new) + "\n")
    return find("proxy reachable", site)


@contextmanager
def answering(answer: Answer) -> Generator[str]:
    """HOST:PORT of who takes one connection after the other, and answers so."""
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with closing(connection), suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"{HERE}:{port}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def page(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(PAGE)


def reset(connection: socket.socket) -> None:
    # Closed with something unread, it is reset.
    connection.recv(1)


def end(connection: socket.socket) -> None:
    connection.recv(1000)


def intercepting(folder: Path) -> Answer:
    """Who opens TLS, with an authority of its own."""
    return serving(folder, new_authority("firewall"), HERE)


def serving(folder: Path, authority: Authority, name: str) -> Answer:
    """Who answers by TLS as ``name``, with a certificate of that authority."""
    key = new_key()
    certificate = authority.sign_server(key.public_key(), "firewall", [name], 1)
    (folder / "crt").write_bytes(pem(certificate) + pem(authority.certificate))
    (folder / "key").write_bytes(private_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return lambda connection: page(context.wrap_socket(connection, server_side=True))


def test_a_name_that_no_dns_knows_is_told(site: SiteFolder) -> None:
    found = told(site, "fl.invalid:8443")
    assert "fl.invalid:8443: [Errno" in found.problem
    assert found.fix.startswith("have this machine's DNS, and that of containers, know fl.invalid")


def test_a_port_that_is_refused_is_told(site: SiteFolder) -> None:
    proxy = f"{HERE}:{free_port()}"
    found = told(site, proxy)
    assert "refused" in found.problem
    assert found.fix.startswith(f"a firewall rejects outgoing TCP to {proxy}: open it")


def test_what_is_dropped_is_told(site: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.5)
    # It takes no connection, and answers no hello.
    with socket.create_server((HERE, 0), backlog=0) as listener:
        found = told(site, f"{HERE}:{listener.getsockname()[1]}")
    assert "timed out" in found.problem
    assert found.fix.startswith("a firewall drops what goes out: open outgoing TCP")


def test_who_opens_tls_is_told(site: SiteFolder, tmp_path: Path) -> None:
    with answering(intercepting(tmp_path)) as proxy:
        found = told(site, proxy)
    assert "certificate verify failed" in found.problem
    assert found.fix.startswith(
        f"the certificate that {proxy} shows was not signed by the authority in this site's ca.crt"
    )
    assert f"a firewall opens TLS: let TLS to {proxy} through unopened" in found.fix


def test_a_server_of_another_authority_is_told_also_where_that_has_the_same_name(
    site: SiteFolder, tmp_path: Path
) -> None:
    own = read_certificate(site.authority).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    with answering(serving(tmp_path, new_authority(str(own)), HERE)) as proxy:
        assert "was not signed by the authority in this site's ca.crt" in told(site, proxy).fix


def test_a_certificate_for_another_address_is_told(site: SiteFolder, tmp_path: Path) -> None:
    authority = new_authority("tests")
    before = site.authority.read_bytes()
    site.authority.write_bytes(pem(authority.certificate))
    with answering(serving(tmp_path, authority, "proxy.example")) as proxy:
        found = told(site, proxy)
    site.authority.write_bytes(before)
    assert "is not the federation's proxy's, or not good now" in found.fix


@pytest.mark.parametrize("answer", [page, reset, end])
def test_who_answers_in_place_of_the_proxy_is_told(site: SiteFolder, answer: Answer) -> None:
    with answering(answer) as proxy:
        found = told(site, proxy)
    assert found.problem.startswith(proxy)
    assert found.fix.startswith("something on the way, such as a firewall, answers or breaks off in place of the proxy")
