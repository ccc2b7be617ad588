"""What would end a simulated run later is told before Flower starts, with the exit code that the run would have had."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli.beforehand import check_data, check_files, from_here
from client.sources import DataError
from models import Architecture, build
from server.errors import StoreError
from strategies.settings import Settings, parse_settings
from strategies.tensor_files import write_tensors
from tests.commands import Ran, run, run_demo

SMALL: dict[str, object] = {"model": "mlp", "width": 4, "depth": 1}
SMALL_TOML = 'model = "mlp"\nwidth = 4\ndepth = 1\n'


def play(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> Ran:
    return run_demo(tmp_path, capsys, SMALL_TOML + text, *options)


def network(settings: Settings) -> dict[str, Tensor]:
    return build(Architecture(*settings.network), 1).state_dict()


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("data = '/no/such'", 12, "data '/no/such': no such file or folder. Expected 'digits', 'module:function'"),
        ("shape = '1x4x4'", 12, "samples have shape 1x8x8, the setting 'shape' says 1x4x4"),
        ("classes = 9", 12, "classes are numbered 0..9, the setting 'classes' says 9"),
        ("initial = '/no/such.safetensors'", 16, "setting 'initial': /no/such.safetensors: no such file"),
        ("reference = '/no/such.safetensors'", 16, "setting 'reference': /no/such.safetensors: no such file"),
    ],
)
def test_what_cannot_be_read_ends_the_demo_before_flower_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, told: str
) -> None:
    done = play(tmp_path, capsys, text)
    assert done.code == code
    assert told in done.err
    assert "starting Flower" not in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("setting", ["initial", "reference"])
def test_a_file_of_another_network_ends_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    other = write_tensors(tmp_path / "other.safetensors", network(parse_settings({**SMALL, "width": 5})))
    done = play(tmp_path, capsys, f"{setting} = {str(other)!r}")
    assert done.code == 16
    assert f"setting {setting!r}: {other}: tensor" in done.err


def test_files_are_taken_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower runs the app in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    told = parse_settings({**SMALL, "initial": "a.safetensors", "reference": "b.safetensors", "data": "c"})
    here = from_here(told)
    assert here == {key: str(tmp_path / str(got)) for key, got in told.model_dump().items() if key in here}
    assert set(here) == {"initial", "reference", "data"}
    assert from_here(Settings()) == {}
    assert from_here(parse_settings({"data": "a:b", "reference": "site-us"})) == {}


def test_files_that_fit_are_taken(tmp_path: Path) -> None:
    state = network(parse_settings(SMALL))
    path = str(write_tensors(tmp_path / "right.safetensors", state))
    check_files(parse_settings({**SMALL, "initial": path}))
    check_files(parse_settings({**SMALL, "reference": path}))


def test_features_that_are_not_standardised_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Sites' networks diverge on them, and then no round merges."""
    settings = {**SMALL, "shape": "3", "classes": 2}
    check_data(parse_settings({**settings, "data": "tests.test_beforehand:pressures"}), 2)
    told = "feature 2 has a root mean square of 1e+03, feature 0 of 0.5 (counted from 0), where networks train best"
    assert f"warning: data 'tests.test_beforehand:pressures': {told}" in capsys.readouterr().err
    check_data(parse_settings({**settings, "data": "tests.test_beforehand:standardised"}), 2)
    assert capsys.readouterr().err == ""


def pressures() -> tuple[Tensor, list[int]]:
    return torch.tensor([[0.5, 1.0, 1000.0]] * 40), [0, 1] * 20


def standardised() -> tuple[Tensor, list[int]]:
    return torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]] * 20), [0, 1] * 20


def test_a_table_for_a_network_of_images_is_told_of_one_for_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "demo", "--data", "tests.test_beforehand:pressures", "--runs", str(tmp_path / "runs"))
    assert done.code == 10
    assert "shape (3,): expected (channels, height, width). Rows of a table are for model = 'mlp'" in done.err


def test_data_that_is_too_little_for_some_sites_ends_a_run_that_needs_them() -> None:
    told = {**SMALL, "data": "tests.test_beforehand:little", "split": "disjoint"}
    check_data(parse_settings({**told, "min-sites": 1}), 3)
    with pytest.raises(DataError, match="'site-us': expected at least 2 samples to train on and 1 held out, got 2 and"):
        check_data(parse_settings({**told, "min-sites": 2}), 3)


@pytest.mark.parametrize(
    ("split", "n_sites", "told"),
    [
        ("disjoint", 20, "to train on and 1 held out, got 0 and 0. Give more samples, have fewer sites, or change"),
        ("iid", 40, "expected at least 2 samples to train on and 1 held out, got 1 and 0"),
        ("dirichlet", 10, "34 samples cannot be shared out over 10 sites by split = 'dirichlet'"),
    ],
)
def test_more_sites_than_the_data_feeds_are_told(split: str, n_sites: int, told: str) -> None:
    settings = parse_settings({**SMALL, "data": "tests.test_beforehand:little", "split": split, "min-sites": n_sites})
    with pytest.raises(DataError, match=told):
        check_data(settings, n_sites)


def little() -> tuple[Tensor, list[int]]:
    """Split into disjoint labels, all but four fall to the second of three sites."""
    return torch.zeros(34, 1, 8, 8), [0] * 30 + [1] * 4


def test_a_folder_that_cannot_be_made_is_told_before_flower_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permissions do not tell: where root may do all, `/proc` still takes no folder."""
    done = play(tmp_path, capsys, "", "--runs", "/proc/runs", "--name", "test")
    assert done.code == StoreError.exit_code
    assert "run 'test': cannot write to" in done.err or "not ours to write to" in done.err
    assert "--runs" in done.err
    assert "starting Flower" not in done.err
