"""Whoever starts a run is told before by which settings sites get each other's networks."""

import re
from pathlib import Path

import pytest

from strategies.called_for import CALLED_FOR
from strategies.sent import SENT, sent_networks
from strategies.settings import parse_settings
from tests.commands import run_settings

PRIVATE: dict[str, object] = {"align-at": "site", "start": "shared", "probe-points": 0}
SETTINGS = frozenset(parse_settings({}).model_dump(by_alias=True))


def told(config: dict[str, object]) -> list[str]:
    """The settings of which there is a line."""
    return [line.partition(" = ")[0] for line in sent_networks(parse_settings(config), 1_110_000)]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({}, ["reference", "probe-points", "guard"]),
        ({"probe-points": 0}, ["reference"]),
        ({"probe-points": 0, "reference": "given.safetensors"}, []),
        ({"probe-points": 0, "start": "shared"}, []),
        ({"probe-points": 0, "start": "shared", "reference": "largest"}, ["reference"]),
        ({"probe-points": 0, "align-at": "server"}, []),
        ({"probe-points": 0, "align-at": "none", "repair": True, "norm": "layer"}, ["repair"]),
        ({"mix": "best", "probe-points": 0, "align-at": "server"}, ["mix"]),
        ({"mix": "search", "probe-points": 0, "align-at": "server"}, ["mix"]),
        ({"probe-points": 0, "align-at": "server", "rule": "krum", "min-sites": 5}, ["rule"]),
        ({"align-at": "server", "guard": True}, ["probe-points", "guard"]),
        ({"baselines": True, "variants": True}, ["reference", "probe-points", "guard", "baselines", "variants"]),
    ],
)
def test_each_setting_that_sends_networks_to_sites_has_a_line(config: dict[str, object], keys: list[str]) -> None:
    assert told(config) == keys


@pytest.mark.parametrize("privacy", ["clipping", "local-dp", "secure-aggregation"])
def test_with_privacy_no_site_gets_the_network_of_another(privacy: str) -> None:
    assert told({**PRIVATE, "privacy": privacy, "min-sites": 3}) == []


def test_every_row_names_a_setting() -> None:
    assert {each.key for each in SENT} <= SETTINGS


def test_the_page_on_privacy_has_a_row_for_each_and_for_what_calls_for_questions() -> None:
    page = (Path(__file__).parent.parent / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    named = {name.partition(" = ")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    called_for = {key for _, words in CALLED_FOR.values() for key in SETTINGS if re.search(rf"\b{key}\b", words)}
    # Which network is the reference stands in the rows of who aligns.
    assert {each.key for each in SENT} | called_for <= named | {"reference"}


def test_it_is_told_with_the_size_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_settings(tmp_path, capsys, "baselines = true")
    assert (
        "probe-points = 25: every site is sent every other site's network, as aligned and, where the server has it so, "
        "as it was trained, to measure the lines to them (one is 1.1 MB)\n" in done.err
    )
    assert "baselines = true: in the first round that merges every site is sent every other site's" in done.err
