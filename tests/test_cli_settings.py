"""A run config is told apart from a wrong one before a run is started."""

import json
from pathlib import Path

import pytest

from strategies.settings import default_config
from tests.commands import run


def test_without_a_file_the_defaults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "settings", "--format", "json").out) == default_config()


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
    ],
)
def test_what_is_wrong_is_said_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    (tmp_path / "run.toml").write_text(text)
    done = run(capsys, "settings", str(tmp_path / "run.toml"))
    assert done.code == 11
    assert told in done.err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "settings", str(tmp_path / "run.toml"))
    assert done.code == 11
    assert "run.toml: No such file" in done.err
