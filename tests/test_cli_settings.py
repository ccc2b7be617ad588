"""A run config is told apart from a wrong one before a run is started."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from cli.flower import executable
from cli.settings import checked_settings
from cli.traffic import WORDS
from models import Architecture
from server.planned import PARTS_OF_A_ROUND
from strategies.settings import Settings
from tests.commands import run, run_settings


def test_without_a_file_the_defaults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(run(capsys, "settings", "--format", "json").out)
    assert said.pop("changed-from") == {}
    assert said.pop("traffic")["n_sites"] == Settings().min_sites
    assert said == Settings().model_dump(by_alias=True)


def test_what_differs_from_the_defaults_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("rounds = 7\nmodel = 'mlp'\nwidth = 8\nmix = 'mean'\n")
    lines = run(capsys, "settings", tmp_path / "run.toml").out.splitlines()
    assert [line.split()[1] for line in lines if " * " in line and "│" in line] == ["rounds", "model", "width"]
    assert f"* differs from the default: 3 of {len(Settings.model_fields)}" in lines
    said = json.loads(run(capsys, "settings", tmp_path / "run.toml", "--format", "json").out)
    assert said["changed-from"] == {"rounds": 3, "model": "resnet20", "width": 0}
    assert "*" not in run(capsys, "settings").out


def test_it_is_told_what_a_round_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("model = 'mlp'\nwidth = 64\nmix = 'search'\nbaselines = true\n")
    moved = json.loads(run(capsys, "settings", tmp_path / "run.toml", "--format", "json").out)["traffic"]
    first, later = (moved[name].pop("parts") for name in ("first_round", "later_round"))
    for name, parts in (("first_round", first), ("later_round", later)):
        assert moved[name] == {key: sum(part[key] for part in parts.values()) for key in moved[name]}
    assert ("search" in first, "search" in later, "baselines" in first, "baselines" in later) == (
        True,
        True,
        True,
        False,
    )
    said = run(capsys, "settings", tmp_path / "run.toml").out
    assert "to and from each of 2 sites (min-sites)" in said
    (search,) = [line.split("│") for line in said.splitlines() if "network of least loss (mix)" in line]
    assert float(search[2]) == pytest.approx(first["search"]["to_site_bytes"] / 1e6, rel=0.01)
    assert f"asked at most {moved['first_round']['questions']} times" in said


@pytest.mark.parametrize(("rounds", "tells_later"), [(1, False), (2, True)])
def test_a_run_of_one_round_is_told_of_no_later_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rounds: int, tells_later: bool
) -> None:
    (tmp_path / "run.toml").write_text(f"model = 'mlp'\nwidth = 8\nrounds = {rounds}\n")
    said = run(capsys, "settings", tmp_path / "run.toml").out
    table = said[said.index("to and from each of 2 sites") :]
    assert "networks, sent out and trained" in table
    assert (" later" in table) is tells_later


def test_a_network_that_there_is_none_of_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("model = 'resnet20'\nnorm = 'none'\n")
    done = run(capsys, "settings", tmp_path / "run.toml")
    assert f"{tmp_path / 'run.toml'}:2: resnet20: norm 'none' is not one of batch, layer" in done.err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "--version")
    assert (done.code, done.out.split()) == (0, ["fedrebasin", version("fedrebasin")])


def test_every_part_of_a_round_is_told_in_words() -> None:
    assert WORDS.keys() == PARTS_OF_A_ROUND.keys()


def test_a_file_is_read_as_a_run_would_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("rounds = 7\nlearning-rate = 1\n")
    said = json.loads(run(capsys, "settings", str(tmp_path / "run.toml"), "--format", "json").out)
    assert (said["rounds"], said["learning-rate"]) == (7, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch = 3", "setting 'epoch': there is no such setting; the nearest is 'epochs'"),
        ("epochs = 'three'", "setting 'epochs': expected an integer, got 'three' (str)"),
        ("run = 'a b'", "setting 'run': expected letters, digits, '.', '_' and '-', at most 64"),
        ("shape = '8 by 8'", "setting 'shape': expected sizes such as 3x32x32, got '8 by 8' (str)"),
        ("epochs=3 rounds=2", "not TOML"),
        ("class-names = 'cat,dog'", "setting 'class-names': expected 10 different names"),
        ("classes = 2\nclass-names = 'cat,cat'", "got 1: 'cat,cat', with 'cat' twice"),
        ("width = 100000", "'resnet20' of width 100000 takes 42,160 GB, and this machine has"),
        ("width = 10000000000000000000", "takes more bytes than can be counted, and this machine has"),
        ("width = 1000000000000", "takes more bytes than can be counted, and this machine has"),
        ("[quality]\nrounds = 3", "run.toml: [quality] is a table; settings stand in none: remove that line"),
        ("shape = '1x5x5'\nmodel = 'tests.test_cli_settings:eight_by_eight'", "does not take 1x5x5: RuntimeError"),
        (
            "classes = 3\nmodel = 'tests.test_cli_settings:eight_by_eight'",
            "with (2, 10), expected (2, 3)",
        ),
        ("head = 'ridge'\nmodel = 'tests.test_cli_settings:without_a_bias'", "must have a bias and 10 outputs"),
        ("model = 'tests.test_carried:complex_filter'", "setting 'model': '0.weight' is complex64, which messages"),
    ],
)
def test_what_is_wrong_is_said_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    done = run_settings(tmp_path, capsys, text)
    assert done.code == 11
    assert told in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "rounds = 1\nhead = 'logstic'\n'epoch' = 3",
            ["2: setting 'head': expected", "3: setting 'epoch': there is no"],
        ),
        ("# one merge\n\nprivacy = 'clipping'\nmerge = 'sequential'", ["4: setting 'merge': expected 'mean' with"]),
        ("# one merge\n\nprivacy = 'clipping'\nalign-at = 'server'", ["4: setting 'align-at': expected"]),
    ],
)
def test_what_is_wrong_with_a_setting_begins_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: list[str]
) -> None:
    said = run_settings(tmp_path, capsys, text).err
    for each in told:
        assert f"{tmp_path / 'run.toml'}:{each}" in said


def test_what_is_told_of_a_run_stands_below_its_table(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("rounds = 1\nmix = 'best'\n")
    said = subprocess.run(
        [executable("fedrebasin"), "settings", str(tmp_path / "run.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert 0 < said.index("differs from the default") < said.index("mix = 'best': every site is sent")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", ""),
        (
            "merge = 'least-squares'",
            "merge = 'least-squares': each site sends Gram matrices of 4 layers, 0.1 MB of",
        ),
        (
            "merge = 'sequential'",
            "merge = 'sequential': each site sends sums for 4 layers in turn, 0.1 MB of at most",
        ),
        ("variants = true", "variants: each site sends Gram matrices of 4 layers, 0.1 MB of at most 64 (gram-limit-"),
        ("variants = true", "(gram-limit-megabytes), of two networks\n"),
        (
            "head = 'ridge'",
            "head = 'ridge': each site sends sums over the last layer's inputs, 0.039 MB for each",
        ),
    ],
)
def test_how_much_sites_would_send_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    done = run_settings(tmp_path, capsys, f"model = 'mlp'\nwidth = 64\n{line}\n")
    assert (told in done.err) if told else "each site sends" not in done.err


def test_of_simulated_sites_it_is_not_told_what_they_send(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model": "mlp", "width": 64, "head": "ridge", "rounds": 1, "merge": "sequential"}
    checked_settings({**config, "gram-limit-megabytes": 0.03}, simulated=True)
    said = capsys.readouterr().err
    assert "sends" not in said
    assert "3 of 4 layers are merged by their mean" in said


def test_layers_that_there_is_no_room_for_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_settings(
        tmp_path, capsys, "model = 'mlp'\nwidth = 64\nmerge = 'sequential'\ngram-limit-megabytes = 0.03\n"
    )
    assert "warning: 3 of 4 layers are merged by their mean: gram-limit-megabytes = 0.03 has no room for" in done.err


def test_a_solved_head_that_later_rounds_may_not_bear_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_settings(tmp_path, capsys, "model = 'mlp'\nwidth = 64\nhead = 'ridge'\nrounds = 3\n")
    assert "warning: setting 'head' = 'ridge': in a network without normalisation" in done.err


def without_a_bias(_: Architecture) -> torch.nn.Module:
    """A network whose last layer cannot be solved."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False))


def eight_by_eight(_: Architecture) -> torch.nn.Module:
    """A network that does not look at the settings."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shape = '3x5'", "resnet20: shape (3, 5): expected (channels, height, width)"),
        ("model = 'tests.test_cli_settings:no_network'", "it raised TypeError: no_network() takes 0 positional"),
    ],
)
def test_a_network_that_cannot_be_built_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    done = run_settings(tmp_path, capsys, text)
    assert done.code != 0
    assert told in done.err


def no_network() -> torch.nn.Module:
    """Not what a run calls."""
    return torch.nn.Linear(1, 1)


def test_an_unknown_network_is_told_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_settings(tmp_path, capsys, "model = 'resnet21'")
    assert done.code != 0
    assert all(name in done.err for name in ("resnet21", "resnet20", "transformer"))


@pytest.mark.parametrize(
    "command",
    [
        ("settings", "run.toml"),
        ("demo", "--run-config", "run.toml"),
        ("server", "init", "--proxy", "localhost:8443", "--run-config", "run.toml"),
    ],
    ids=lambda command: command[0],
)
def test_a_file_that_is_not_utf_8_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_bytes("class-names = 'Käse,Brot'".encode("latin-1"))
    done = run(capsys, *command)
    assert done.code == 11
    assert "run.toml: not TOML: 'utf-8' codec can't decode byte 0xe4 in position 16" in done.err
    assert "in UTF-8" in done.err


def test_the_settings_of_a_new_server_are_tried_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("model = 'resnet21'")
    options = ("--proxy", "127.0.0.1:8443", "--run-config", tmp_path / "run.toml")
    done = run(capsys, "server", "init", *options, "--folder", tmp_path / "federation")
    assert done.code != 0
    assert "resnet21" in done.err
    assert not (tmp_path / "federation").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "settings", str(tmp_path / "run.toml"))
    assert done.code == 11
    assert "run.toml: No such file" in done.err
