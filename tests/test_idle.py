"""Who sets what changes nothing is told what it would need."""

from pathlib import Path

import pytest

from server.summary import read_rounds
from strategies.idle import idle, remarks
from strategies.settings import parse_settings
from tests.commands import run_settings
from tests.inprocess import play_in_process, quick_settings

PRIVATE: dict[str, object] = {"align-at": "site", "reference": "reference.safetensors", "probe-points": 0}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"refine": True, "align-at": "server"}, "setting 'refine' = true changes nothing: it needs align-at = 'both'"),
        (
            {"distillation": 1.0, "rounds": 1},
            "setting 'distillation' = 1.0 changes nothing: it needs rounds = 2 or more",
        ),
        ({"reference": "medoid", "align-at": "none"}, "setting 'reference' = 'medoid' changes nothing"),
        ({"matching-weight": 0.5, "site-matching": "activations"}, "it needs site-matching = 'joint'"),
        ({"matching-samples": 9, "align-at": "server"}, "it needs align-at = 'site' or 'both'"),
        ({"restarts": 2}, "it needs align-at = 'server' or reference = 'medoid', and start other than 'shared'"),
        ({"restarts": 2, "align-at": "server", "start": "shared"}, "and start other than 'shared'"),
        ({"max-weight-share": 0.5, "rule": "median"}, "it needs rule = 'mean': the others weigh all sites alike"),
        ({"statistics-samples": 9, "norm": "layer"}, "it needs a network with BatchNorm, or head"),
        ({"path-samples": 9, "norm": "layer"}, "and a network with BatchNorm or a solved last layer"),
        ({"recalibrate-passes": 3, "norm": "layer"}, "it needs a network with BatchNorm"),
        (
            {"path-samples": 9, "probe-points": 0},
            "it needs probe-points or mix other than 'mean', and a network with BatchNorm",
        ),
        ({"gram-limit-megabytes": 1.0}, "it needs merge other than 'mean'"),
        ({"gram-shrinkage": 0.5, "merge": "sequential"}, "it needs merge = 'least-squares'"),
        ({"later-merge": "mean"}, "it needs rounds = 2 or more, and merge, head, mix or repair"),
        ({"later-merge": "mean", "head": "ridge", "rounds": 1}, "it needs rounds = 2 or more, and merge"),
        ({"mix-points": 5}, "it needs mix = 'search'"),
        ({"mix-points": 5, "mix": "best"}, "it needs mix = 'search'"),
        ({"head-trips": 5, "head": "ridge"}, "it needs head = 'logistic'"),
        ({"malicious-sites": 2, "rule": "median"}, "it needs rule = 'trimmed-mean' or 'krum'"),
        ({"dp-epsilon": 0.9}, "it needs privacy = 'local-dp'"),
        ({"dirichlet-alpha": 1.0}, "it needs split = 'dirichlet'"),
    ],
)
def test_a_setting_without_effect_is_told(config: dict[str, object], told: str) -> None:
    (line,) = idle(parse_settings(config))
    assert told in line


def test_nothing_is_matched_again_where_nobody_aligns() -> None:
    told = idle(parse_settings({"reference": "medoid", "restarts": 2, "align-at": "none"}))
    assert [line.partition(" = ")[0] for line in told] == ["setting 'reference'", "setting 'restarts'"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"refine": True},
        {"distillation": 1.0, "rounds": 2},
        {"matching-weight": 0.5},
        {"restarts": 2, "align-at": "server"},
        {"gram-limit-megabytes": 1.0, "merge": "sequential"},
        {"gram-shrinkage": 0.5, "variants": True},
        {"later-merge": "mean", "repair": True, "rounds": 2},
        {"mix-points": 5, "mix": "search"},
        {"statistics-samples": 9, "norm": "layer", "head": "ridge"},
        {"path-samples": 9, "norm": "layer", "head": "ridge"},
        {"head-trips": 5, "head": "logistic"},
        {"max-weight-share": 0.5, "privacy": "clipping", **PRIVATE},
        {"path-samples": 9, "probe-points": 0, "mix": "search"},
        {"recalibrate-passes": 3},
        {"dirichlet-alpha": 1.0, "split": "dirichlet"},
    ],
)
def test_a_setting_with_one_is_not(config: dict[str, object]) -> None:
    assert idle(parse_settings(config)) == []


@pytest.mark.parametrize("key", ["max-weight-share", "max-update-norm", "max-update-ratio"])
def test_what_nobody_sees_under_secure_aggregation_is_not_bounded(key: str) -> None:
    (line,) = idle(parse_settings({key: 0.5, "privacy": "secure-aggregation", "min-sites": 3, **PRIVATE}))
    assert f"setting {key!r} = 0.5 changes nothing: it needs to see each site's network" in line


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"reference": "global"}, True),
        ({"reference": "global", "start": "shared"}, False),
        ({"reference": "global", "initial": "trained.safetensors"}, False),
        ({"reference": "global", "align-at": "none"}, False),
        ({"reference": "largest"}, False),
    ],
)
def test_an_untrained_reference_is_told(config: dict[str, object], told: bool) -> None:
    lines = remarks(parse_settings(config))
    assert any("a random network that nobody trained" in line for line in lines) is told


@pytest.mark.parametrize("privacy", ["none", "clipping", "local-dp", "secure-aggregation"])
def test_what_is_advised_of_it_can_be_set(privacy: str) -> None:
    config = {**PRIVATE, "reference": "global", "privacy": privacy, "min-sites": 3}
    (line,) = [line for line in remarks(parse_settings(config)) if "nobody trained" in line]
    assert ("'largest'" in line) is (privacy == "none")
    for advised in ({"start": "shared"}, {"initial": "trained.safetensors"}):
        assert not any("nobody trained" in each for each in remarks(parse_settings({**config, **advised})))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"reference": "largest", "start": "shared"}, True),
        ({"reference": "medoid", "start": "shared", "align-at": "server"}, True),
        ({"reference": "site-us", "start": "shared"}, True),
        ({"start": "shared"}, False),
        ({"reference": "global", "start": "shared"}, False),
        ({"reference": "given.safetensors", "start": "shared", "align-at": "server"}, False),
        ({"reference": "largest", "start": "shared", "align-at": "none"}, False),
        ({"reference": "largest"}, False),
    ],
)
def test_a_site_that_leads_those_that_start_as_one_is_told(config: dict[str, object], told: bool) -> None:
    lines = remarks(parse_settings(config))
    assert any("have their units in its order already" in line for line in lines) is told


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"epochs": 0}, "start = 'checkpoint' for networks that sites bring"),
        ({"epochs": 0, "start": "shared"}, "or 'initial'"),
        ({"epochs": 0, "start": "shared", "initial": "trained.safetensors"}, ""),
        ({"epochs": 0, "start": "checkpoint"}, ""),
        ({"epochs": 1}, ""),
    ],
)
def test_networks_that_nobody_trains_are_told(config: dict[str, object], advice: str) -> None:
    lines = [line for line in remarks(parse_settings(config)) if "sites send random networks" in line]
    assert len(lines) == bool(advice)
    assert all(advice in line for line in lines)


@pytest.mark.parametrize(("adjustment", "told"), [(0.0, False), (1.0, False), (2.0, False), (3.0, True)])
def test_frequencies_taken_out_more_than_once_are_told(adjustment: float, told: bool) -> None:
    lines = remarks(parse_settings({"logit-adjustment": adjustment}))
    assert any("holds the classes that are rare there for frequent" in line for line in lines) is told


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        ({"probe-points": 0}, "it needs probe-points;"),
        ({"align-at": "site"}, "it needs networks as they were trained"),
        ({"probe-points": 0, "guard": False}, ""),
        ({"align-at": "site", "baselines": True}, ""),
        ({"align-at": "site", "variants": True}, ""),
        ({"align-at": "none", "probe-points": 0}, ""),
        ({"mix": "search", "probe-points": 0}, "it needs probe-points;"),
        ({**PRIVATE, "privacy": "clipping"}, ""),
        ({**PRIVATE, "privacy": "local-dp"}, ""),
        ({**PRIVATE, "privacy": "secure-aggregation", "min-sites": 3}, ""),
        ({}, ""),
    ],
)
def test_a_guard_that_sees_nothing_is_told(config: dict[str, object], needs: str) -> None:
    lines = [line for line in remarks(parse_settings(config)) if "no alignment will be undone" in line]
    assert len(lines) == bool(needs)
    assert all(needs in line for line in lines)


@pytest.mark.parametrize("merge", ["mean", "least-squares", "sequential"])
@pytest.mark.parametrize("head", ["mean", "counts", "ridge"])
def test_counts_in_place_of_what_was_solved_are_told(head: str, merge: str) -> None:
    lines = remarks(parse_settings({"head": head, "merge": merge}))
    assert any("replaces the last layer" in line for line in lines) is (head == "counts" and merge != "mean")


def test_it_is_told_before_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_settings(tmp_path, capsys, "mix-points = 5")
    assert done.code == 0
    assert "warning: setting 'mix-points' = 5 changes nothing: it needs mix = 'search'" in done.err


def test_an_initial_network_that_is_not_here_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_settings(tmp_path, capsys, "initial = 'away.safetensors'")
    assert "setting 'initial' = 'away.safetensors': there is no such file here; the server must have it" in done.err


@pytest.mark.parametrize(("data", "told"), [("/no/such", True), (".", False), ("digits", False), ("a:b", False)])
def test_data_that_is_not_here_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, told: bool
) -> None:
    done = run_settings(tmp_path, capsys, f"data = {data!r}")
    assert done.code == 0
    line = f"setting 'data' = {data!r}: there is no such file or folder here; the sites must have it"
    assert (line in done.err) is told


@pytest.mark.parametrize("reference", ["global", "medoid", "no-such-site", "no/such.safetensors"])
def test_a_reference_that_is_told_to_change_nothing_changes_nothing(tmp_path: Path, reference: str) -> None:
    """Not even with a search, which starts from the reference."""
    quick: dict[str, object] = {"align_at": "none", "mix": "search", "epochs": 1, "width": 16, "probe_points": 0}
    usual, other = (
        play_in_process(quick_settings(tmp_path / folder, reference=name, mix_points=3, **quick), 3)
        for folder, name in (("usual", "auto"), ("other", reference))
    )
    assert idle(parse_settings({"reference": reference, "align-at": "none"}))
    assert [(record.reference, record.mix) for record in read_rounds(other)] == [
        (record.reference, record.mix) for record in read_rounds(usual)
    ]
    assert other.checkpoint_path(1).read_bytes() == usual.checkpoint_path(1).read_bytes()


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("larges", "is a site's name; if it is a misspelling, set 'largest'"),
        ("Medoid", "is a site's name; if it is a misspelling, set 'medoid'"),
        ("away.safetensors", "there is no such file here; the server must have it"),
        ("site-eu", ""),
    ],
)
def test_a_reference_that_may_be_a_mistake_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: str, told: str
) -> None:
    done = run_settings(tmp_path, capsys, f"reference = {reference!r}")
    assert done.code == 0
    assert (told in done.err) if told else "warning" not in done.err
