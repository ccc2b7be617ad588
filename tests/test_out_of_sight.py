"""Paths of which it cannot be told whether anything is there: each command says so, with its own exit code."""

import os
from pathlib import Path

import pytest

from strategies.files import out_of_sight
from tests.commands import DATA, MLP, perceptron, run, write

# No file system takes such a name. It stands for a folder that may not be entered, which does not stop root.
LONG = "x" * 300
NETWORK = "a.safetensors"
COMMANDS = [
    (("inspect", f"{LONG}/m.safetensors", MLP), 16),
    (("merge", NETWORK, NETWORK, MLP, "-o", f"{LONG}/w.safetensors"), 18),
    (("merge", NETWORK, NETWORK, MLP, "--data", f"{LONG}/x", "-o", "w.safetensors"), 12),
    (("barrier", NETWORK, NETWORK, MLP, DATA, "--plot", f"{LONG}/x.svg"), 18),
    (("watch", f"{LONG}/run"), 13),
    (("watch", "run", "--runs", LONG), 13),
    (("exporter", "--runs", f"{LONG}/a"), 20),
    (("server", "list", "--folder", f"{LONG}/a"), 30),
    (("site", "run", "--folder", f"{LONG}/a"), 31),
]


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_what_cannot_be_looked_at_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / NETWORK, perceptron(0))
    ran = run(capsys, *command)
    assert ran.code == code, ran.err
    assert "cannot be looked at: File name too long; may this user enter every folder on the way?" in ran.err


def test_a_run_config_that_names_such_a_path_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(f"data = '/{LONG}/x'")
    ran = run(capsys, "settings", tmp_path / "run.toml")
    assert (ran.code, "there is no such file or folder here" in ran.err) == (0, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters every folder")
def test_a_folder_that_may_not_be_entered_is_such_a_path(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    assert "cannot be looked at: Permission denied" in out_of_sight(tmp_path / "locked" / "a")


def test_what_is_there_and_what_is_not_are_in_sight(tmp_path: Path) -> None:
    assert out_of_sight(tmp_path) == out_of_sight(tmp_path / "nothing") == ""
