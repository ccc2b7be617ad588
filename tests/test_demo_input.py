"""What the demo is told to play, and how it ends when that cannot be played."""

import json
import os
import socket
from pathlib import Path

import pytest

import cli.demo as demo
from cli.flower import SuperLink
from cli.superlink import short_folder
from server.store import RunStore
from server.summary import read_rounds
from tests.commands import run, run_demo
from tests.demos import finish, start_demo
from tests.deployment.samples import write_images

pytestmark = pytest.mark.long


def test_a_run_config_is_played_as_it_is_with_data_seen_from_here(tmp_path: Path) -> None:
    """By secure aggregation, which so goes over Flower's own wire."""
    write_images(tmp_path / "pictures", 0, 300)
    (tmp_path / "run.toml").write_text(
        'model = "mlp"\nwidth = 16\ndepth = 2\nepochs = 1\nrounds = 1\nsplit = "iid"\ndata = "pictures"\n'
        'privacy = "secure-aggregation"\nalign-at = "site"\nstart = "shared"\nprobe-points = 0\n'
    )
    arguments = ("--run-config", "run.toml", "--sites", "3", "--format", "json")
    process = start_demo(*arguments, runs=tmp_path, place=tmp_path)
    _, err = finish(process)
    assert process.returncode == 0, err
    settings = json.loads((tmp_path / "test" / "settings.json").read_text())
    assert (settings["model"], settings["split"], settings["min-sites"]) == ("mlp", "iid", 3)
    (record,) = read_rounds(RunStore(tmp_path / "test"))
    assert len(record.weights) == 3
    assert not record.inputs_sha256  # of no single network
    assert record.merged is not None


def test_options_that_a_run_config_replaces_are_not_taken_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("width = 16")
    done = run(capsys, "demo", "--run-config", str(tmp_path / "run.toml"), "--width", "4", "--rounds", "3")
    assert done.code == 19
    assert "--width, --rounds: not together with --run-config; write it into that file" in done.err


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("min-sites = 3", 19, "min-sites = 3, and --sites is 2: the run would wait for others"),
        ("start = 'checkpoint'", 19, "simulated sites bring none; set start to 'seed' or 'shared'"),
        ("reference = 'site-2'", 10, "there is no site of that name; there are: site-eu, site-us"),
    ],
)
def test_a_run_config_that_simulated_sites_cannot_play_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, told: str
) -> None:
    done = run_demo(tmp_path, capsys, text)
    assert done.code == code
    assert told in done.err
    assert not (tmp_path / "runs").exists()


def test_a_run_config_can_say_the_runs_name_and_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the command line has the last word."""
    (tmp_path / "run.toml").write_text(f"run = 'one'\nruns-dir = '{tmp_path / 'told'}'\n")
    asked = ("demo", "--run-config", str(tmp_path / "run.toml"))
    with RunStore(tmp_path / "told" / "one").held():
        assert "run 'one': another process plays it" in run(capsys, *asked).err
    with RunStore(tmp_path / "told" / "two").held():
        assert "run 'two': another process plays it" in run(capsys, *asked, "--name", "two").err


def test_a_folder_for_runs_that_is_a_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    process = start_demo(runs=tmp_path / "runs")
    _, err = finish(process)
    assert process.returncode == 13
    assert f"{tmp_path / 'runs'} is a file, expected a folder; name another folder with --runs" in err
    assert "Traceback" not in err
    assert "starting Flower" not in err


def test_a_log_that_cannot_be_kept_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file")
    demo._keep_log(SuperLink(tmp_path, {}), "1", RunStore(tmp_path / "runs" / "test"))  # pyright: ignore[reportPrivateUsage]
    assert "the run's log is not kept" in capsys.readouterr().err


def test_a_port_that_is_none_is_told(tmp_path: Path) -> None:
    process = start_demo("--port", "99999", runs=tmp_path)
    _, err = finish(process)
    assert process.returncode == 2
    assert "99999" in err


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start_demo("--port", port, runs=tmp_path)
        _, err = finish(process)
    assert process.returncode == 15
    assert f"port {port} on 127.0.0.1 is taken" in err
    assert "--port" in err


def test_a_run_that_fails_fails_the_command_with_the_reason(tmp_path: Path) -> None:
    process = start_demo("--data", "tests.test_demo_input:vanishing_data", "--width", "4", runs=tmp_path)
    _, err = finish(process)
    assert process.returncode == 14
    assert "the run ended as finished:failed" in err
    assert "0 of 2 sites (min-sites) joined" in err
    assert "the data is gone" in err
    # On no terminal each phase is a line.
    assert " 0:00  starting Flower\n" in err
    assert "round 1 of 3: join, phase 1 of 11\n" in err


def vanishing_data() -> tuple[list[list[list[list[float]]]], list[int]]:
    """Samples where the command looks for their shape; none at the sites."""
    if "FLWR_HOME" in os.environ:
        raise RuntimeError("the data is gone")
    return [[[[0.0] * 8] * 8]] * 20, [0, 1] * 10


def test_a_long_path_for_temporary_files_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 60)))
    folder = short_folder()
    assert len(str(folder)) < 42
    folder.rmdir()


def test_wrong_data_is_told_before_anything_starts(tmp_path: Path) -> None:
    process = start_demo("--data", "no/such/place", runs=tmp_path)
    _, err = finish(process)
    assert process.returncode == 12
    assert "data 'no/such/place': no such file or folder" in err
