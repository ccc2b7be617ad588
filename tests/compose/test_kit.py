"""A site that joins with a kit, in the kit's own three containers, against the federation of ``compose.yml``."""

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compose.engine import IMAGE, Federation, compose_command, docker, execute, needs_engine

pytestmark = needs_engine
# Whoever owns the site's folder runs its containers; never root here.
OWNER = 12345
# The kit's way out is the internet; in this test it is the network that the proxy is on.
WAY_OUT = "networks:\n  outside:\n    external: true\n    name: {network}\n"


@dataclass(frozen=True)
class Kit:
    """A site's folder, and how its containers are spoken to."""

    folder: Path
    project: str

    def compose(self, *arguments: str, check: bool = True) -> str:
        """``docker compose arguments…`` in the site's folder; what it printed."""
        files = ("--file", str(self.folder / "compose.yml"), "--file", str(self.folder / "way-out.yml"))
        place = ("--project-directory", str(self.folder), "--project-name", self.project)
        return execute([*compose_command(), *place, *files, *arguments], check).stdout

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        return json.loads(docker("inspect", self.compose("ps", "--quiet", service).strip()).stdout)[0]


def fedrebasin(work: Path, *arguments: str) -> dict[str, Any]:
    """``fedrebasin arguments… --format json`` in a container, as docs/site-guide.md has it."""
    place = ("--volume", f"{work}:/work", "--workdir", "/work", "--user", f"{OWNER}:{OWNER}")
    return json.loads(docker("run", "--rm", *place, IMAGE, *arguments, "--format", "json").stdout)


@pytest.fixture(scope="module")
def kit(federation: Federation) -> Generator[Kit]:
    """st-marys, a member whose containers run."""
    work = Path(tempfile.mkdtemp(prefix="fedrebasin-kit-"))
    work.chmod(0o777)
    made = Kit(work / "site", f"{federation.project}-st-marys")
    try:
        asked = fedrebasin(work, "site", "request", "st-marys")
        shutil.copy(work / asked["request"], work / "st-marys.request.pem")
        command = ("server", "approve", "/exchange/st-marys.request.pem", "--fingerprint", asked["fingerprint"])
        kit_of = ("--kit", "/exchange/st-marys.kit", "--folder", "/federation", "--format", "json")
        exchange = ("run", "--rm", "--no-deps", "-T", "--volume", f"{work}:/exchange")
        said = federation.compose(*exchange, "enrolment", *command, *kit_of)
        told = json.loads(said[said.index("{") : said.rindex("}") + 1])
        fedrebasin(work, "site", "install", "st-marys.kit", "--fingerprint", told["fingerprint"])
        settings = made.folder / "site.toml"
        settings.write_text(settings.read_text().replace('data = ""', 'data = "digits"'))
        (made.folder / "way-out.yml").write_text(WAY_OUT.format(network=f"{federation.project}_sites"))
        made.compose("up", "--detach", "sidecar", "supernode", "superexec")
        yield made
    finally:
        if (made.folder / "way-out.yml").exists():
            made.compose("down", "--volumes", check=False)
        shutil.rmtree(work, ignore_errors=True)


def test_the_site_passes_its_check(kit: Kit) -> None:
    assert "all checks passed" in kit.compose("run", "--rm", "check")


def test_the_site_comes_online(federation: Federation, kit: Kit) -> None:
    def online() -> bool:
        listed = ("run", "--rm", "--no-deps", "-T", "enrolment", "server", "list", "--folder", "/federation")
        said = federation.compose(*listed, "--format", "json")
        sites = json.loads(said[said.index("{") : said.rindex("}") + 1])["sites"]
        return {each["name"]: each["there"] for each in sites}["st-marys"] == "online"

    federation.wait(online, 180, f"st-marys is online\n{kit.compose('logs', '--tail=15')}")


def test_only_the_sidecar_has_a_way_out_and_training_sees_no_key(kit: Kit) -> None:
    parts = ("sidecar", "supernode", "superexec")
    ways = {part: set(kit.inspect(part)["NetworkSettings"]["Networks"]) for part in parts}
    inside, dialling = f"{kit.project}_inside", f"{kit.project}_dialling"
    assert ways["superexec"] == {inside}
    assert ways["supernode"] == {inside, dialling}
    assert len(ways["sidecar"]) == 2
    assert ways["sidecar"] & {inside, dialling} == {dialling}
    keys = ("sh", "-c", "find /site -name '*.key' | grep . ; touch /data/x 2>/dev/null && echo written; true")
    assert kit.compose("exec", "-T", "superexec", *keys).strip() == ""


@pytest.mark.parametrize(("host", "port", "reached"), [("sidecar", 9443, False), ("supernode", 9094, True)])
def test_training_reaches_the_supernode_alone(kit: Kit, host: str, port: int, reached: bool) -> None:
    # By its address, too: the engine must not only keep the name to itself.
    networks: dict[str, dict[str, str]] = kit.inspect(host)["NetworkSettings"]["Networks"]
    for place in (host, *(each["IPAddress"] for each in networks.values() if not reached)):
        dial = ("timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{place}/{port} && echo reached; true")
        assert kit.compose("exec", "-T", "superexec", *dial, check=False).strip().endswith("reached") == reached


@pytest.mark.parametrize("part", ["sidecar", "supernode", "superexec"])
def test_each_container_is_confined_and_its_owners(kit: Kit, part: str) -> None:
    told = kit.inspect(part)
    assert told["Config"]["User"] == f"{OWNER}:{OWNER}"
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert told["HostConfig"]["CapDrop"] == ["ALL"]
    assert told["HostConfig"]["Memory"] > 0
    assert os.fspath(kit.folder) in json.dumps(told["Mounts"])
