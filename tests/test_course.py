"""What the charts of rounds show is said below them, line by line; no legend lies on a line or is cut off."""

import re
from math import inf
from pathlib import Path
from xml.etree import ElementTree

import pytest

from server.course import course_notes, half_difference
from server.drawing import course_charts, path_charts
from server.records import BarrierRecord, PathRecord, RoundRecord, SitePaths
from server.report import write_report
from server.store import RunStore
from tests.stores import COMPLETE, FLAT, LINE, write_run

SVG = "{http://www.w3.org/2000/svg}"
# Of a letter of the charts, at most on average.
LETTER = 6.0
# From the merged network to what a site made of it, which is worse on all data: the end is the highest point.
APART = PathRecord(lambdas=[0.0, 0.5, 1.0], losses=[0.2, 0.9, 3.0], accuracies=[0.9, 0.8, 0.5], barrier=1.4)
LATER = COMPLETE.model_copy(
    update={
        "round": 2,
        "reference": "global",
        "baselines": {},
        "paths": {"site-eu": SitePaths(naive=APART, aligned=APART), "site-us": SitePaths(naive=FLAT, aligned=FLAT)},
        "barrier": BarrierRecord(naive=1.4, aligned=1.4, definition="so"),
    }
)


def unprobed(record: RoundRecord) -> RoundRecord:
    return record.model_copy(update={"paths": {}, "barrier": None})


def test_each_line_that_is_drawn_is_explained() -> None:
    accuracy, barrier = course_notes([COMPLETE, LATER])
    assert "Merged: the network of that round." in accuracy
    assert "Best site alone: the most that any site's own network reached before the first merge" in accuracy
    assert "Best site before the merge: the most that any of the networks reached which went into that" in accuracy
    assert barrier.startswith("Barrier: the greatest of the lines from the round's reference")


def test_what_is_not_drawn_is_not_explained() -> None:
    (accuracy,) = course_notes([unprobed(COMPLETE).model_copy(update={"baselines": {}}), unprobed(LATER)])
    assert "Merged:" in accuracy
    assert "Best site" not in accuracy


def test_of_a_corrected_site_it_is_said() -> None:
    (accuracy, _) = course_notes([COMPLETE, LATER], is_corrected=True)
    assert "any site's own network, with its class frequencies taken out, reached before" in accuracy


def test_a_barrier_of_later_rounds_is_taken_apart() -> None:
    (_, barrier) = course_notes([COMPLETE, LATER])
    assert "The line then leads from that network to what one site made of it with its own data." in barrier
    assert "In round 2 it is 1.400, on the line to site-eu: 1.400 of that is half the difference" in barrier


def test_where_sites_did_not_begin_from_the_merge_nothing_is_said_of_that() -> None:
    (_, barrier) = course_notes([COMPLETE, COMPLETE.model_copy(update={"round": 2})])
    assert "After the first merge" not in barrier
    diverged = APART.model_copy(update={"losses": [0.2, inf, inf], "barrier": inf})
    paths = {"site-eu": SitePaths(naive=diverged, aligned=diverged)}
    (_, barrier) = course_notes([COMPLETE, LATER.model_copy(update={"paths": paths})])
    assert "After the first merge" in barrier
    assert "half the difference" not in barrier


@pytest.mark.parametrize("path", [LINE, FLAT, APART])
def test_no_barrier_is_below_half_the_difference_between_its_ends(path: PathRecord) -> None:
    assert half_difference(path) <= path.barrier + 1e-9


def test_the_page_has_it_below_the_charts_and_the_curves(tmp_path: Path) -> None:
    report = write_report(RunStore(write_run(tmp_path / "run", [COMPLETE, LATER])))
    text = " ".join(report.read_text(encoding="utf-8").split())
    assert text.index("Round by round") < text.index("Best site before the merge:") < text.index("Between the networks")
    assert "half the difference between the ends, below which no barrier lies, 0.100. BatchNorm" in text


@pytest.mark.parametrize(
    "chart", [*course_charts([COMPLETE, LATER]), path_charts(SitePaths(naive=LINE, aligned=FLAT))[0]]
)
def test_the_legend_stands_above_the_lines_and_inside_the_picture(chart: str) -> None:
    drawing = ElementTree.fromstring(re.sub(r"\s(xlink:)?href=", " ref=", chart))
    groups = {group.get("id", ""): group for group in drawing.iter(f"{SVG}g")}
    texts = list(groups["legend_1"].iter(f"{SVG}text"))
    numbers = re.findall(r"[\d.]+", next(groups["patch_2"].iter(f"{SVG}path")).get("d", ""))
    top = min(map(float, numbers[1::2]))
    width = float(drawing.get("viewBox", "").split()[2])
    assert texts
    for text in texts:
        assert float(text.get("y", "nan")) < top
        assert float(text.get("x", "nan")) + LETTER * len("".join(text.itertext())) < width
