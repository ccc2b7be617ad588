"""The report as a browser shows it: nothing overlaps, nothing is cut off, all of it can be read."""

import json
import shutil
from pathlib import Path

import matplotlib.image
import pytest

from server.records import RoundRecord
from server.report import write_report
from server.store import RunStore
from tests.observability.browser import Window, contrast
from tests.observability.replay import RECORDED

WINDOWS = [Window(width, is_dark) for width in (1280, 390) for is_dark in (False, True)]
each_window = pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.width} {'dark' if w.is_dark else 'light'}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the recorded run."""
    run = tmp_path_factory.mktemp("runs") / "recorded"
    shutil.copytree(RECORDED, run)
    return write_report(RunStore(run))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with long names, which nothing in a page can rely on."""
    run = tmp_path_factory.mktemp("runs") / ("a-run-of-the-university-hospitals-of-" + "x" * 26)
    text = (RECORDED / "rounds.jsonl").read_text(encoding="utf-8")
    run.mkdir()
    (run / "rounds.jsonl").write_text(text.replace("site-us", "site-us-" + "very-" * 11 + "l"), encoding="utf-8")
    shutil.copy(RECORDED / "settings.json", run)
    return write_report(RunStore(run))


@each_window
def test_nothing_overlaps_and_nothing_is_cut_off(report: Path, window: Window) -> None:
    found = window.measure(report)
    assert (found["width"], found["dark"]) == (window.width, window.is_dark)
    assert found["count"] > 200
    assert found["overlaps"] == []
    assert found["outside"] == []
    assert found["scroll"] <= window.width


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_neither_overlap_nor_are_cut_off(crowded: Path, width: int) -> None:
    found = Window(width, is_dark=False).measure(crowded)
    assert (found["overlaps"], found["outside"]) == ([], [])


@each_window
def test_all_text_stands_out_from_its_ground(report: Path, window: Window) -> None:
    found = window.measure(report)
    ratios = {colour: contrast(colour, found["paper"]) for colour in found["colours"]}
    assert min(ratios.values()) >= 4.5, ratios
    assert found["small"] >= 10


@each_window
def test_a_screenshot_shows_a_page_with_curves(report: Path, window: Window) -> None:
    pixels = matplotlib.image.imread(window.screenshot(report, 4000))
    assert pixels.shape[:2] == (4000, window.width)
    ground = pixels[5, 5, :3]
    assert (ground.mean() < 0.3) == window.is_dark
    # The blue of aligned, and the orange of naive.
    for colour in ((0x1A, 0x7F, 0xC2), (0xC2, 0x57, 0x1A)):
        near = abs(pixels[..., :3] - [part / 255 for part in colour]).max(axis=-1) < 0.03
        assert near.sum() > 200


def test_the_probe_sees_what_overlaps_or_is_cut_off(report: Path) -> None:
    broken = report.with_name("broken.html")
    style = "<style>h2 { margin-bottom: -3rem !important; } table { width: 60rem; }</style></head>"
    broken.write_text(report.read_text(encoding="utf-8").replace("</head>", style), encoding="utf-8")
    found = Window(390, False).measure(broken)
    assert found["overlaps"]
    assert found["outside"]


def test_it_says_who_gave_what_and_holds_every_hash(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    lines = (RECORDED / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    for record in map(RoundRecord.model_validate, map(json.loads, lines)):
        assert record.checkpoint_sha256 in page
        assert all(digest in page for digest in record.inputs_sha256.values())
    assert "round 3: client error; round 4: client error; round 5: client error" in page
    assert "Their networks were merged into one\nin 6 of 7 rounds" in page
    assert not any(mark in page for mark in ("<script", "<link", "src=", "@import", "url(http", "None"))
