"""`fedrebasin site check`, as far as it needs no server: the site's settings and the network that it joins with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli_w
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

from cli.enrolment.authority import new_authority, pem
from cli.enrolment.errors import KitError
from cli.enrolment.kits import install_kit, kit_folder, membership_of, write_kit
from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import read_parts
from cli.enrolment.requests import make_request, read_request
from cli.enrolment.settings import Federation
from cli.main import app
from cli.ports import free_port
from cli.preflight.command import CHECKS, inspect, perform
from cli.preflight.finding import Finding, Subject
from models import Architecture, build
from strategies.tensor_files import write_tensors
from tests.deployment.samples import write_images

ROOT = Path(__file__).resolve().parent.parent
NETWORK = Architecture("mlp", (1, 8, 8), 10, 16, 2)
RUN = {"model": "mlp", "shape": "1x8x8", "classes": 10, "width": 16, "depth": 2}


def member(tmp_path: Path, start: str = "checkpoint", **settings: object) -> SiteFolder:
    """A site that joined a federation whose runs begin with ``start``, with these settings of its own."""
    return member_of(tmp_path, {"start": start}, **settings)


def member_of(tmp_path: Path, run: Mapping[str, str | bool], **settings: object) -> SiteFolder:
    """The same where runs have these settings, and else `RUN`'s."""
    site, authority = SiteFolder(tmp_path / "site"), new_authority("tests")
    federation = Federation(proxy="proxy.example:8443", image="fedrebasin:test", run={**RUN, **run})
    asked = read_request(make_request(site, "site-us"))
    with kit_folder(tmp_path / "kit") as folder:
        membership = membership_of(federation, asked.name, "17")
        told = write_kit(folder, membership, authority.certificate, authority.sign_site(asked.key, asked.name, 365))
    install_kit(tmp_path / "kit", site, told)
    site.settings.write_text(tomli_w.dumps({"data": "digits", **settings}))
    return site


def find(name: str, site: SiteFolder) -> Finding:
    """How the check ``name`` goes."""
    (check,) = [each for each in CHECKS if each.name == name]
    return perform(check, Subject(site))


def test_features_that_are_not_standardised_are_told_with_the_samples(tmp_path: Path) -> None:
    found = find("data", member(tmp_path, data="tests.test_preflight:pressures"))
    assert found.problem == ""
    assert "; but feature 0 has a root mean square of 120, feature 0 of 120 (counted from 0)" in found.found
    assert "; but" not in find("data", member(tmp_path / "other")).found


def pressures() -> tuple[torch.Tensor, list[int]]:
    return torch.full((20, 1, 8, 8), 120.0), [0, 1] * 10


@pytest.mark.parametrize(
    ("slow_with", "autocast", "told"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_bfloat16_that_is_slower_here_is_told_with_the_training_step(
    tmp_path: Path, slow_with: bool, autocast: bool, told: bool
) -> None:
    model = f"tests.test_preflight:{'slow_in_bfloat16' if slow_with else 'slow_in_fp32'}"
    found = find("training step", member_of(tmp_path, {"start": "seed", "model": model, "autocast": autocast}))
    assert found.problem == ""
    assert ("; but with autocast a step takes " in found.found) == told
    assert found.found.endswith("ask the operator for autocast = false") == told


class Slow(nn.Module):
    """Takes a second where products are in bfloat16, or where they are not."""

    def __init__(self, where: bool) -> None:
        super().__init__()
        self.where, self.fc = where, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, late."""
        if torch.is_autocast_enabled("cpu") == self.where:
            time.sleep(1.0)
        return self.fc(x.flatten(1))


def slow_in_bfloat16(_: Architecture) -> nn.Module:
    return Slow(True)


def slow_in_fp32(_: Architecture) -> nn.Module:
    return Slow(False)


def test_a_checkpoint_of_the_runs_network_passes(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "own.safetensors", build(NETWORK, 0).state_dict())
    found = find("checkpoint", member(tmp_path, checkpoint=str(path)))
    assert (found.problem, found.found) == ("", f"{path}, 6 tensors")


def test_a_run_that_starts_otherwise_needs_no_checkpoint(tmp_path: Path) -> None:
    assert find("checkpoint", member(tmp_path, "seed")) == Finding("checkpoint", "not needed: start is 'seed'")


def test_a_checkpoint_that_is_not_named_is_told(tmp_path: Path) -> None:
    found = find("checkpoint", member(tmp_path))
    assert found.problem == "start is 'checkpoint', and site.toml names none"
    assert found.fix == "set checkpoint in site.toml to your trained network, a safetensors file"


def test_a_checkpoint_with_which_the_first_round_would_fail_is_told(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    site = member(tmp_path, checkpoint=str(path))
    assert find("checkpoint", site).problem == f"{path}: no such file"
    path.write_bytes(b"nothing")
    assert "not a readable safetensors file" in find("checkpoint", site).problem
    write_tensors(path, build(Architecture("mlp", (1, 8, 8), 10, 32, 2), 0).state_dict())
    assert f"{path}: tensor " in (problem := find("checkpoint", site).problem)
    assert "the run's network has" in problem
    state = build(NETWORK, 0).state_dict()
    name = next(iter(state))
    write_tensors(path, {**state, name: torch.full_like(state[name], torch.nan)})
    assert find("checkpoint", site).problem == f"tensor {name!r} has NaN or infinite values"


@pytest.mark.parametrize(
    ("settings", "key", "path"),
    [({"data": "scans"}, "data", "scans"), ({"checkpoint": "../own.safetensors"}, "checkpoint", "../own.safetensors")],
)
def test_a_path_that_another_folder_would_not_lead_to_is_told_and_the_site_does_not_start(
    tmp_path: Path, settings: dict[str, object], key: str, path: str
) -> None:
    site = member(tmp_path, "seed", **settings)
    words = f"{key} = {path!r}: expected a whole path, which begins with '/'"
    assert words in find("configuration", site).problem
    with pytest.raises(KitError, match="is not started from this folder"):
        read_parts(site)


@pytest.mark.parametrize("name", ["tests", "another"])
def test_a_certificate_that_the_kits_authority_did_not_sign_is_told(tmp_path: Path, name: str) -> None:
    site = member(tmp_path, "seed")
    assert find("certificate chain", site).problem == ""
    site.authority.write_bytes(pem(new_authority(name).certificate))
    found = find("certificate chain", site)
    assert found.problem == f"{site.certificate} was not signed by the authority in {site.authority}"
    assert "ask the server's operator for a new kit" in found.fix


def test_what_is_made_of_the_data_stays_in_the_sites_folder_and_goes(tmp_path: Path) -> None:
    site = member(tmp_path, "seed", data=str(write_images(tmp_path / "images", 0, 100)))
    (tmp_path / "home").mkdir()
    command = [
        sys.executable,
        "-c",
        "from cli.entry import main; main()",
        "site",
        "check",
        "--folder",
        site.path,
        "--format",
        "json",
    ]
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = {each["check"]: each["problem"] for each in json.loads(done.stdout)["checks"]}
    assert found["data"] == ""
    assert sorted(path.name for path in site.state.iterdir()) == ["no-data"]
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_what_needs_a_check_that_failed_is_not_tried_and_its_advice_is_given_once(tmp_path: Path) -> None:
    quiet = {"least-free-gigabytes": 0.0, "sidecar-port": free_port(), "runtime-port": free_port()}
    site = member(tmp_path, "seed", data="/nowhere", **quiet)
    site.membership.write_text(site.membership.read_text().replace("proxy.example", "fl.invalid"))
    findings = {each.check: each for each in inspect(Subject(site))}
    untried = {each.check: each.fix for each in findings.values() if not each.tried}
    need_the_proxy = ("clock", "control and runtime API closed", "key enrolled", "upload")
    assert untried == {**dict.fromkeys(need_the_proxy, "see 'proxy reachable'"), "training step": "see 'data'"}
    assert {each.check for each in findings.values() if each.problem and each.tried} == {"proxy reachable", "data"}
    assert sum("DNS" in each.fix for each in findings.values()) == 1


def test_without_settings_nothing_else_is_tried_and_one_check_has_failed(tmp_path: Path) -> None:
    site = member(tmp_path, "seed", dta="x")
    done = CliRunner().invoke(app, ["site", "check", "--folder", str(site.path)])
    assert f"1 of {len(CHECKS)} checks failed, {len(CHECKS) - 1} were not tried" in done.stdout
    assert done.stdout.count("see 'configuration'") == len(CHECKS) - 1


def test_the_kits_check_has_room_for_what_is_made_of_the_data() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "site" / "compose.yml.j2").read_text())["services"]
    assert "./state:/site/state" in services["check"]["volumes"]


@pytest.mark.parametrize("data", ["digits", "ward:samples", "/data"])
def test_what_is_found_from_anywhere_is_taken(tmp_path: Path, data: str) -> None:
    site = member(tmp_path, "seed", data=data)
    assert find("configuration", site).problem == ""
    assert read_parts(site).settings.data == data
