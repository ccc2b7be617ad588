"""Who waits for a run sees which round and phase of how many it is in, and what each round took."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cli import bars, steps
from server.phases import phases
from server.store import RunStore
from server.summary import read_rounds
from strategies.settings import Settings
from tests.inprocess import play_in_process, quick_settings

SMALL: dict[str, object] = {"width": 8, "depth": 1, "epochs": 1, "later_epochs": 1, "rounds": 2}
PRIVATE: dict[str, object] = {"align_at": "site", "start": "shared", "probe_points": 0, "min_sites": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "ridge", "merge": "sequential", "baselines": True},
        {"head": "counts", "merge": "least-squares", "probe_points": 0},
        {"head": "logistic", "mix": "search", "baselines": True, "variants": True},
        {"repair": True, "norm": "batch", "guard": False},
        {"mix": "search", "guard": False, "align_at": "none"},
        {**PRIVATE, "privacy": "secure-aggregation"},
    ],
    ids=str,
)
def test_a_round_has_the_phases_that_its_settings_let_expect_in_their_order(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    settings = quick_settings(tmp_path, **{**SMALL, **changes})
    rounds = read_rounds(play_in_process(settings, settings.min_sites))
    for record, first in zip(rounds, (True, False), strict=True):
        assert [*record.seconds, "keep"] == phases(settings, first)


def told(monkeypatch: pytest.MonkeyPatch, store: RunStore, settings: Settings, terminal: bool) -> str:
    """What stands on standard error of a run that is in one phase after the other, and has ended after round 1."""
    out = Console(file=StringIO(), force_terminal=terminal, width=100)
    monkeypatch.setattr(steps, "progress", out)
    monkeypatch.setattr(bars, "progress", out)
    lines = store.rounds_path.read_text(encoding="utf-8")
    store.rounds_path.unlink()
    with steps.steps("starting Flower") as shown:
        look = steps.following(store, settings, shown)
        for phase in ("starting", "join", "train", "train"):
            store.status(int(phase != "starting"), phase)
            assert not look()
        store.rounds_path.write_text(lines.splitlines()[0] + "\n", encoding="utf-8")
        for number, phase in ((1, "keep"), (2, "train")):
            store.status(number, phase)
            assert not look()
        store.status(2, "finished")
        assert look()
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


def test_elsewhere_than_on_a_terminal_each_phase_and_each_round_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(tmp_path, **SMALL)
    store = play_in_process(settings)
    lines = [line[7:] for line in told(monkeypatch, store, settings, terminal=False).splitlines()]
    assert lines[:4] == [
        "starting Flower",
        "the run begins",
        "round 1 of 2: join, phase 1 of 10",
        "round 1 of 2: train, phase 2 of 10",
    ]
    assert lines[4].startswith("round 1 of 2 merged in ")
    assert lines[4].count(" s") == 4
    # The first round alone measures the sites' networks.
    assert lines[5:] == [
        "round 1 of 2: keep, phase 10 of 10",
        "round 2 of 2: train, phase 2 of 9",
        "the run ends",
    ]


def test_on_a_terminal_there_is_one_bar_and_what_rounds_took_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(tmp_path, **SMALL)
    text = re.sub(r"\x1b\[[0-9;]*m", "", told(monkeypatch, play_in_process(settings), settings, terminal=True))
    assert "round 1 of 2 merged in " in text
    assert "round 2 of 2: train" in text
    assert re.search(r"round 2 of 2: train \S+ 2/9 ", text)
    assert "phase 2 of 9" not in text
