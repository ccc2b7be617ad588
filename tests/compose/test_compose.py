"""``docker compose up``: from the build to the merged network, and what the networks keep apart."""

import json
import subprocess
from pathlib import Path

import pytest

from server.store import RunStore
from server.summary import read_rounds
from tests.compose.engine import (
    GRAFANA,
    HAS_EXPORTER,
    ROOT,
    Federation,
    compose_command,
    docker,
    has_image,
    needs_engine,
)

pytestmark = needs_engine
LASTING = ["superlink", "superexec", "proxy", "site-us", "site-eu"]
ONE_SHOTS = ["certificates", "enrolment", "run"]
WITH_ROOT = {"certificates"}
GIGABYTE = 10**9
needs_exporter = pytest.mark.skipif(not HAS_EXPORTER, reason="the exporter and deploy/prometheus are not here yet")
# The roots of public authorities, which some packages bring, are no secrets.
KEYS = "-name '*.key' -o -name '*.secret' -o -name '*.pem'"
PUBLIC = "-not -path '/usr/*' -not -path '/etc/ssl/*' -not -name cacert.pem -not -name roots.pem"
SECRETS = f"find / -xdev \\( {KEYS} \\) {PUBLIC}"


def test_the_first_run_ends_well_and_leaves_network_and_report(federation: Federation) -> None:
    assert federation.inspect("run")["State"]["ExitCode"] == 0, federation.compose("logs", "run", "superexec")
    store = RunStore(federation.runs / "first")
    (record,) = read_rounds(store)
    assert sorted(record.weights) == ["site-3", "site-eu", "site-us"]
    assert record.barrier is not None
    assert store.network(1)
    assert (store.directory / "report.html").is_file()


@pytest.mark.parametrize("service", ONE_SHOTS)
def test_what_runs_once_ends_with_0(federation: Federation, service: str) -> None:
    assert federation.inspect(service)["State"]["ExitCode"] == 0


@pytest.mark.parametrize("service", LASTING)
def test_what_lasts_is_healthy(federation: Federation, service: str) -> None:
    federation.wait(
        lambda: federation.inspect(service)["State"]["Health"]["Status"] == "healthy", 120, f"{service} is healthy"
    )


@pytest.mark.parametrize("service", [*LASTING, *ONE_SHOTS, "more-sites"])
def test_every_container_is_confined(federation: Federation, service: str) -> None:
    told = federation.inspect(service)
    host = told["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["Memory"] > 0
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not any("docker.sock" in mount["Source"] for mount in told["Mounts"])
    if service in WITH_ROOT:
        assert host["NetworkMode"] == "none"
    else:
        assert told["Config"]["User"].split(":")[0] not in ("", "0", "root")
        assert not host["CapAdd"]


def test_the_image_is_small_has_a_user_of_its_own_and_no_secrets_or_compilers(federation: Federation) -> None:
    name = federation.environment.get("FEDREBASIN_IMAGE", "fedrebasin:0.1.0")
    (image,) = json.loads(docker("image", "inspect", name).stdout)
    assert image["Size"] < 2 * GIGABYTE
    assert image["Config"]["User"] == "10001:10001"
    look = ["run", "--rm", "--network=none", "--user=0:0", "--entrypoint=sh", name, "-c"]
    assert docker(*look, SECRETS).stdout.split() == []
    assert docker(*look, "command -v gcc cc g++ make git || true").stdout.split() == []


def test_the_password_of_grafana_is_made_and_printed_with_its_address(federation: Federation) -> None:
    said = federation.compose("logs", "certificates")
    port = federation.environment["FEDREBASIN_GRAFANA_PORT"]
    line = next(each for each in said.splitlines() if "password:" in each)
    assert f"http://127.0.0.1:{port}" in line
    assert len(line.split("password:")[1].strip()) >= 24


# All at once: a name that a network does not know takes its resolver many seconds.
PROBE = """
import json, socket, ssl, http.client
from concurrent.futures import ThreadPoolExecutor
def connects(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
        return True
    except OSError:
        return False
def answers(method, path, certificate):
    context = ssl._create_unverified_context()
    if certificate:
        context.load_cert_chain("/site/site.crt", "/site/keys/site.key")
    try:
        connection = http.client.HTTPSConnection("proxy", 8443, context=context, timeout=5)
        connection.request(method, path, body=b"" if method == "POST" else None)
        return connection.getresponse().status
    except (OSError, ssl.SSLError) as error:
        return type(error).__name__
inside = [("superlink", 8000), ("superexec", 9095), ("exporter", 9464), ("prometheus", 9090), ("grafana", 3000)]
outside = [("1.1.1.1", 443)]
paths = ["/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task"]
asked = [("POST", path, True) for path in paths] + [("GET", "/docs", True), ("GET", "/health", True)]
asked += [("GET", "/health", False), ("POST", "/v1/fleet/pull-messages", False)]
with ThreadPoolExecutor(16) as pool:
    reached = pool.map(lambda one: connects(*one), inside + outside)
    proxy, answered = pool.submit(connects, "proxy", 8443), pool.map(lambda one: answers(*one), asked)
*allowed, health, nobody, neither = answered
print(json.dumps({
    "reached": [host for (host, port), is_open in zip(inside + outside, reached) if is_open],
    "proxy": proxy.result(),
    "with": allowed,
    "health": health,
    "without": [nobody, neither],
}))
"""
PROBE_OF_NO_SITE = PROBE.replace("if certificate:", "if False:")


def test_from_the_sites_network_only_the_fleet_api_is_reached_and_only_with_a_certificate(
    federation: Federation,
) -> None:
    told = json.loads(federation.python("site-us", PROBE))
    assert told["reached"] == []
    assert told["proxy"]
    assert set(told["with"]) == {403}
    assert told["health"] == 200
    assert set(told["without"]) == {400}


def test_the_probe_would_tell_what_is_reached(federation: Federation) -> None:
    # Else the test above would pass for a probe that reaches nothing.
    assert "superlink" in json.loads(federation.python("superexec", PROBE_OF_NO_SITE))["reached"]


@needs_exporter
def test_from_the_network_of_what_shows_the_runs_the_superlink_is_not_reached(federation: Federation) -> None:
    reached = set(json.loads(federation.python("exporter", PROBE_OF_NO_SITE))["reached"])
    assert {"exporter", "prometheus"} <= reached <= {"exporter", "prometheus", "grafana"}


def test_a_site_in_its_container_passes_its_own_check(federation: Federation) -> None:
    done = docker("exec", federation.container("site-us"), "fedrebasin", "site", "check", "--folder", "/site")
    assert "all checks passed" in done.stdout


def test_a_second_start_changes_nothing(federation: Federation) -> None:
    before = (federation.runs / "first" / "rounds.jsonl").read_bytes()
    federation.compose("up", "--detach", "--no-build", "certificates", "enrolment", "run")
    federation.wait(lambda: federation.inspect("run")["State"]["Status"] == "exited", 180, "the run ends again")
    assert federation.inspect("run")["State"]["ExitCode"] == 0
    assert (federation.runs / "first" / "rounds.jsonl").read_bytes() == before


def test_another_address_than_the_one_in_every_kit_is_refused(federation: Federation) -> None:
    said = federation.compose(
        *("run", "--rm", "--no-deps", "-T", "-e", "FEDREBASIN_PROXY=other.example:8443", "certificates"), check=False
    )
    assert "this federation was made for proxy:8443" in said


@needs_exporter
def test_prometheus_holds_the_barrier_of_the_run(federation: Federation) -> None:
    program = """
import json, urllib.request
names = json.load(urllib.request.urlopen("http://prometheus:9090/api/v1/label/__name__/values", timeout=10))["data"]
print(json.dumps([name for name in names if "barrier" in name]))
"""
    federation.wait(lambda: bool(json.loads(federation.python("exporter", program))), 90, "the barrier is scraped")


@needs_exporter
@pytest.mark.parametrize("service", ["exporter", "prometheus", "grafana"])
def test_what_shows_the_run_is_healthy(federation: Federation, service: str) -> None:
    if service == "grafana" and not has_image(GRAFANA):
        pytest.skip(f"{GRAFANA} cannot be had here: Grafana is left out")
    federation.wait(
        lambda: federation.inspect(service)["State"]["Health"]["Status"] == "healthy", 120, f"{service} is healthy"
    )


def test_the_proxy_finds_the_superlink_at_another_address(federation: Federation) -> None:
    network, superlink = f"{federation.project}_internal", federation.container("superlink")

    def address(container: str) -> str:
        (told,) = json.loads(docker("inspect", container).stdout)
        return told["NetworkSettings"]["Networks"][network]["IPAddress"]

    def answered() -> bool:
        return json.loads(federation.python("site-us", PROBE))["health"] == 200

    before, took = address(superlink), list[str]()
    takes = ("run", "--detach", "--rm", "--network", network, "--entrypoint", "sleep")
    docker("network", "disconnect", network, superlink)
    try:
        # The lowest that is free is given away first.
        while before not in map(address, took):
            took += docker(*takes, federation.inspect("superlink")["Image"], "300").stdout.split()[-1:]
        docker("network", "connect", "--alias", "superlink", network, superlink)
        federation.wait(answered, 30, "the proxy finds the SuperLink")
    finally:
        docker("rm", "--force", *took)


def test_a_revoked_site_is_refused(federation: Federation) -> None:
    federation.compose("run", "--rm", "enrolment", "server", "revoke", "site-eu", "--folder", "/federation")

    def refused() -> bool:
        return json.loads(federation.python("site-eu", PROBE))["health"] in (400, 403)

    federation.wait(refused, 30, "the proxy refuses site-eu")
    assert json.loads(federation.python("site-us", PROBE))["health"] == 200


def test_the_guides_backup_holds_the_authority_and_is_its_owners_alone(federation: Federation, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "server-guide.md").read_text(encoding="utf-8")
    commands = guide.partition("\n## Backup\n")[2].split("```\n")[1]
    here = [*compose_command(), "--project-name", federation.project, "--project-directory", str(ROOT)]
    script = commands.replace("docker compose", " ".join([*here, "--file", str(ROOT / "compose.yml")]))
    command, environment = ["sh", "-ec", f"umask 022\n{script}"], dict(federation.environment)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:1] == ["federation/ca.key"]
    folder = tmp_path / "backup"
    assert [path.stat().st_mode & 0o077 for path in (folder, folder / "federation.tar")] == [0, 0]
    federation.wait(
        lambda: federation.inspect("superlink")["State"]["Health"]["Status"] == "healthy", 120, "the SuperLink is back"
    )
