"""Approving, renewing and revoking, against a real SuperLink and a real proxy."""

import errno
import os
import shutil
import signal
import ssl
import time
from pathlib import Path

import httpx
import pytest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from cli.enrolment import approval
from cli.enrolment.approval import Server
from cli.enrolment.authority import read_certificate
from cli.enrolment.errors import EnrolmentError, KitError
from cli.enrolment.keys import public_ssh, read_private
from cli.enrolment.kits import kit_fingerprint
from cli.enrolment.layout import SiteFolder
from cli.enrolment.register import Entry, read_register
from cli.enrolment.requests import make_request, read_request
from cli.enrolment.server import open_server
from cli.enrolment.superlink import nodes, reach_superlink, register_node, unregister_node
from cli.flower import FlowerError, SuperLink
from cli.preflight import enrolled
from cli.preflight.finding import Subject
from cli.simulate import join
from models.errors import ModelError
from tests.deployment.federation import Deployment, fedrebasin
from tests.waiting import wait_until

# `serve.sh` looks once a second, and nginx takes a moment to begin anew.
AT_ONCE_SECONDS = 4.0


def answer_of_superlink(server: Deployment, site: SiteFolder) -> int:
    """What the SuperLink itself answers to the site's signature, beside the proxy."""
    key = read_private(site.key)
    context = ssl.create_default_context(cafile=str(site.authority))
    signed = [NodeAuthHttpInterceptor(key, key.public_key())]
    node = Node(node_id=int(Subject(site).membership.node_id))
    try:
        with FleetHttpClient(f"https://{server.superlink}", interceptors=signed, verify=context) as client:
            client.GetRun(GetRunRequest(node=node, run_id=1))
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def seconds_until_refused(server: Deployment, site: SiteFolder) -> float:
    """How long the proxy still let the site in."""
    start = time.monotonic()
    while server.answer(site) == 200 and time.monotonic() - start < 30:
        time.sleep(0.1)
    return time.monotonic() - start


def entry_of(server: Deployment, name: str) -> Entry:
    """The newest entry of that name."""
    return [each for each in read_register(server.server.register).sites if each.name == name][-1]


def test_a_revoked_site_is_shut_out_at_the_proxy_at_once_and_at_the_superlink(server: Deployment) -> None:
    site = server.enrol("leaver")
    assert server.answer(site) == 200
    assert answer_of_superlink(server, site) != 401
    fedrebasin("server", "revoke", "leaver", "--folder", server.server.path)
    assert seconds_until_refused(server, site) < AT_ONCE_SECONDS
    assert answer_of_superlink(server, site) == 401
    assert server.answer(server.site("site-us")) == 200


def test_the_list_of_revoked_certificates_alone_shuts_a_site_out(server: Deployment) -> None:
    # The list of names would do it too: each of the two must.
    site = server.enrol("leaver-2")
    names = (server.server.proxy / "sites.map").read_text()
    fedrebasin("server", "revoke", "leaver-2", "--folder", server.server.path)
    (server.server.proxy / "sites.map").write_text(names)
    assert seconds_until_refused(server, site) < AT_ONCE_SECONDS
    time.sleep(2 * AT_ONCE_SECONDS)
    assert server.answer(site) in (0, 400)


def test_a_revoked_key_is_not_let_in_again_and_a_new_one_is(server: Deployment, tmp_path: Path) -> None:
    site = server.enrol("returner")
    fedrebasin("server", "revoke", "returner", "--folder", server.server.path)
    with pytest.raises(EnrolmentError, match="a revoked key stays revoked"):
        approve(server, site.path / "returner.request.pem", tmp_path)
    shutil.rmtree(site.path)
    back = server.enrol("returner")
    # Two reloads lie behind: a worker of the first may take one more connection.
    wait_until(lambda: server.answer(back) == 200, 60, "the new key is let in")


def test_a_new_key_of_a_site_replaces_its_old_one(server: Deployment, tmp_path: Path) -> None:
    old = SiteFolder(server.enrol("rotating").path.rename(tmp_path / "old"))
    new = server.enrol("rotating")
    assert server.answer(new) == 200
    assert enrolled.enrolled(Subject(new))
    assert seconds_until_refused(server, old) < AT_ONCE_SECONDS
    assert answer_of_superlink(server, old) == 401
    statuses = [each.status for each in read_register(server.server.register).sites if each.name == "rotating"]
    assert statuses == ["revoked", "enrolled"]


def test_a_renewed_certificate_has_the_old_key_and_both_work(server: Deployment, tmp_path: Path) -> None:
    site = server.enrol("renewing")
    before = read_certificate(site.certificate)
    told = fedrebasin("server", "renew", "renewing", "--kit", tmp_path / "kit", "--folder", server.server.path)
    assert server.answer(site) == 200
    fedrebasin("site", "install", tmp_path / "kit", "--fingerprint", told["fingerprint"], "--folder", site.path)
    after = read_certificate(site.certificate)
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert server.answer(site) == 200
    assert len(entry_of(server, "renewing").certificates) == 2


def test_revoking_takes_back_every_certificate_that_a_site_had(server: Deployment, tmp_path: Path) -> None:
    site = server.enrol("twice")
    fedrebasin("server", "renew", "twice", "--kit", tmp_path / "kit", "--folder", server.server.path)
    fedrebasin("server", "revoke", "twice", "--folder", server.server.path)
    assert seconds_until_refused(server, site) < AT_ONCE_SECONDS


def test_the_list_shows_who_is_in_and_who_is_out(server: Deployment) -> None:
    server.enrol("gone")
    fedrebasin("server", "revoke", "gone", "--folder", server.server.path)
    sites = {each["name"]: each for each in fedrebasin("server", "list", "--folder", server.server.path)["sites"]}
    assert (sites["site-us"]["status"], sites["gone"]["status"]) == ("enrolled", "revoked")
    assert sites["site-us"]["there"] == "registered"
    assert 364 < sites["site-us"]["days-left"] <= 365


def test_a_site_is_shut_out_at_the_proxy_though_the_superlink_is_silent_and_at_the_superlink_later(
    server: Deployment,
) -> None:
    site = server.enrol("leaver-3")
    server.services["superlink"].kill()
    try:
        with pytest.raises(FlowerError, match="does not tell its nodes"):
            fedrebasin("server", "revoke", "leaver-3", "--folder", server.server.path)
    finally:
        server.start("superlink")
    assert answer_of_superlink(server, site) != 401
    assert seconds_until_refused(server, site) < AT_ONCE_SECONDS
    assert server.answer(site) in (0, 400, 403)
    fedrebasin("server", "revoke", "leaver-3", "--folder", server.server.path)
    assert answer_of_superlink(server, site) == 401


def test_an_unknown_site_is_told_with_those_that_there_are(server: Deployment) -> None:
    with pytest.raises(EnrolmentError, match=r"no site 'nobody' is enrolled; enrolled: .*site-us"):
        fedrebasin("server", "revoke", "nobody", "--folder", server.server.path)


def test_a_request_with_another_fingerprint_lets_nobody_in(server: Deployment, tmp_path: Path) -> None:
    asked = fedrebasin("site", "request", "stranger", "--folder", tmp_path / "site")
    with pytest.raises(EnrolmentError, match="expected SHA256:other"):
        approve(server, asked["request"], tmp_path, "--fingerprint", "SHA256:other")
    assert read_register(server.server.register).enrolled("stranger") is None


def test_where_the_kit_cannot_be_written_nobody_is_let_in(server: Deployment, tmp_path: Path) -> None:
    folder, federation, _ = open_server(server.server.path)
    with reach_superlink(folder, federation) as link:
        before = nodes(link)
        asked = fedrebasin("site", "request", "kitless", "--folder", tmp_path / "site")
        (tmp_path / "kit").mkdir()
        (tmp_path / "kit" / "minutes.txt").write_text("of the board")
        with pytest.raises(KitError, match="there is something that is no kit"):
            approve(server, asked["request"], tmp_path, "--fingerprint", asked["fingerprint"])
        assert nodes(link) == before
    assert read_register(server.server.register).enrolled("kitless") is None
    assert (tmp_path / "kit" / "minutes.txt").read_text() == "of the board"


def full(*_: object) -> None:
    """What writes onto a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fails", ["write_kit", "publish"])
def test_an_approval_that_failed_lets_nobody_in_and_the_next_one_does(
    server: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    name = f"again-{fails.replace('_', '-')}"
    asked = fedrebasin("site", "request", name, "--folder", tmp_path / "site")
    with monkeypatch.context() as patched:
        # Once its key is registered.
        patched.setattr(f"cli.enrolment.approval.{fails}", full)
        with pytest.raises(EnrolmentError, match="No space left"):
            approve(server, asked["request"], tmp_path)
    assert read_register(server.server.register).enrolled(name) is None
    assert not (tmp_path / "kit").exists()
    approve(server, asked["request"], tmp_path)
    told = kit_fingerprint(tmp_path / "kit")
    fedrebasin("site", "install", tmp_path / "kit", "--fingerprint", told, "--folder", tmp_path / "site")
    site = SiteFolder(tmp_path / "site")
    wait_until(lambda: server.answer(site) == 200, 60, "it is let in")
    assert enrolled.enrolled(Subject(site))


def test_an_approval_is_whole_though_it_is_interrupted(
    server: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fedrebasin("site", "request", "patient", "--folder", tmp_path / "site")
    register_node = approval.register_node

    def interrupted(link: SuperLink, name: str, public_key: bytes) -> str:
        found = register_node(link, name, public_key)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(approval, "register_node", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Server.open(server.server.path).approve(read_request(Path(asked["request"])), tmp_path / "kit")
    assert entry_of(server, "patient").status == "enrolled"
    assert kit_fingerprint(tmp_path / "kit")


def test_a_key_that_the_superlink_has_forgotten_is_told(server: Deployment, tmp_path: Path) -> None:
    asked = fedrebasin("site", "request", "forgotten", "--folder", tmp_path / "site")
    public_key = public_ssh(read_request(Path(asked["request"])).key)
    folder, federation, _ = open_server(server.server.path)
    with reach_superlink(folder, federation) as link:
        node = register_node(link, "other", public_key)
        with pytest.raises(FlowerError, match=r"'forgotten': the key is that of 'other', and Flower takes a key once"):
            register_node(link, "forgotten", public_key)
        unregister_node(link, node)
        with pytest.raises(FlowerError, match="the key was that of 'other', which it has forgotten"):
            register_node(link, "forgotten", public_key)


def test_a_network_that_cannot_be_built_lets_nobody_in(server: Deployment, tmp_path: Path) -> None:
    asked = read_request(Path(fedrebasin("site", "request", "early", "--folder", tmp_path / "site")["request"]))
    opened = Server.open(server.server.path).telling("", {"model": "nowhere:network"})
    folder, federation, _ = open_server(server.server.path)
    with reach_superlink(folder, federation) as link:
        before = nodes(link)
        with pytest.raises(ModelError, match="nowhere"):
            opened.approve(asked, tmp_path / "kit")
        assert nodes(link) == before
    with pytest.raises(ModelError, match="nowhere"):
        opened.renew("site-us", tmp_path / "kit")
    assert read_register(server.server.register).enrolled("early") is None
    assert len(entry_of(server, "site-us").certificates) == 1


@pytest.mark.parametrize("lost", ["request", "node key", "kit"])
def test_a_simulated_site_whose_joining_was_broken_off_joins_when_it_is_said_again(
    server: Deployment, tmp_path: Path, lost: str
) -> None:
    opened, site = Server.open(server.server.path), SiteFolder(tmp_path / "site")
    name = f"broken-{lost.replace(' ', '-')}"
    request = make_request(site, name)
    if lost == "kit":
        opened.approve(read_request(request), tmp_path / "kit")
    else:
        request.unlink()
    if lost == "node key":
        site.node_key.unlink()
    join(opened, site, name)
    assert Subject(site).membership.site == name
    assert read_private(site.key).public_key() == read_certificate(site.certificate).public_key()
    assert site.node_key.exists()


def test_the_servers_keys_are_renewed_while_sites_go_on(server: Deployment) -> None:
    before = read_certificate(server.server.proxy / "proxy.crt").serial_number
    fedrebasin("server", "renew", "server", "--folder", server.server.path)
    time.sleep(AT_ONCE_SECONDS)
    assert read_certificate(server.server.proxy / "proxy.crt").serial_number != before
    assert server.answer(server.site("site-us")) == 200


def approve(server: Deployment, request: Path, tmp_path: Path, *more: str) -> None:
    """``server approve``."""
    fedrebasin("server", "approve", request, "--kit", tmp_path / "kit", "--folder", server.server.path, *more)
