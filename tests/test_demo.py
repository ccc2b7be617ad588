"""The demo: a real Flower run, from the command line to the report; and how it ends when it cannot go on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

import cli.demo as demo
from cli import superlink
from cli.interrupts import Interrupted
from cli.superlink import ROOT, SuperLink, packages, processes_of, short_folder, stage_app
from server.live import failure
from server.store import RunStore
from server.summary import read_rounds
from strategies.settings import Settings, as_shown
from tests.commands import run, run_demo
from tests.deployment.samples import write_images
from tests.waiting import wait_until

MINE = """
from sklearn.datasets import load_digits

def data():
    digits = load_digits()
    return digits.images[:, None] / 16, digits.target
"""
COMMAND = [str(Path(sys.executable).parent / "fedrebasin"), "demo"]


def start_demo(*arguments: str, runs: Path, place: Path | None = None) -> "subprocess.Popen[str]":
    environment = os.environ | {"STARTED_BY": str(runs)}
    command = [*COMMAND, "--runs", str(runs), "--name", "test", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=place, text=True, stdout=pipe, stderr=pipe)


def finish(process: "subprocess.Popen[str]", seconds: float = 240) -> tuple[str, str]:
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


def processes_naming(text: str) -> list[str]:
    """Command lines and working directories of living processes that name ``text``."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            named = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in named and entry.name != str(os.getpid()):
            found.append(named.split(b"\0")[0].decode())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One real run, shared by the tests that look at what it leaves."""
    runs = tmp_path_factory.mktemp("runs")
    process = start_demo("--width", "4", "--rounds", "2", "--format", "json", runs=runs)
    out, err = finish(process)
    assert process.returncode == 0, err
    return runs, out


def test_the_log_has_what_server_and_sites_say(finished: tuple[Path, str]) -> None:
    (log,) = finished[0].glob("*/flower.log")
    text = log.read_text(encoding="utf-8")
    assert "round 1: the reference is site-" in text
    assert "admitted 2 replies, refused 0" in text
    # Of a site, through Ray.
    assert "client code: " in text


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


def test_the_guide_says_in_what_the_demo_differs_from_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[demo.Demo] = []

    def play(plan: demo.Demo, _: object) -> None:
        plans.append(plan)
        raise Interrupted

    monkeypatch.setattr(demo, "play_demo", play)
    run(capsys, "demo", "--runs", str(tmp_path))
    settings, usual = (each.model_dump(by_alias=True) for each in (plans[0].settings, Settings()))
    differs = {key: (as_shown(got), as_shown(usual[key])) for key, got in settings.items() if got != usual[key]}
    guide = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| `(\w+)` \|$", guide, re.MULTILINE)
    assert {key: (got, default) for key, got, default in rows} == {
        key: each for key, each in differs.items() if key not in ("run", "runs-dir")
    }


def test_a_real_flower_run_ends_with_one_json_document(finished: tuple[Path, str]) -> None:
    document = json.loads(finished[1])
    assert set(document) == {"accuracy", "loss", "barrier", "merge", "seconds", "run"}
    assert document["merge"] == "round-1"
    assert set(document["barrier"]) == {"naive", "aligned", "definition"}
    assert list(document["accuracy"]) == list(document["loss"])
    assert list(document["accuracy"]) == [
        *("site-eu", "site-eu.corrected", "site-us", "site-us.corrected", "ensemble"),
        *("naive", "naive.recalibrated", "aligned", "aligned.recalibrated", "round-1", "round-2"),
    ]
    assert document["accuracy"]["ensemble"] > 0.8


def test_the_run_store_holds_rounds_checkpoints_and_the_report(finished: tuple[Path, str]) -> None:
    store = finished[0] / "test"
    assert len((store / "rounds.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in (store / "checkpoints").iterdir()) == [
        "round-0001.safetensors",
        "round-0002.safetensors",
    ]
    assert json.loads((store / "status.json").read_text())["phase"] == "finished"


def test_the_report_is_one_page_that_loads_nothing(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "test" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not any(mark in page for mark in ("<script", "<link", "src=", "@import", "url(http"))


def test_the_app_that_sites_receive_holds_our_packages_and_nothing_else(tmp_path: Path) -> None:
    app = stage_app(tmp_path)
    subprocess.run([str(Path(sys.executable).parent / "flwr"), "build", "--app", str(app)], cwd=tmp_path, check=True)
    (bundle,) = tmp_path.glob("*.fab")
    names = [name for name in zipfile.ZipFile(bundle).namelist() if not name.startswith(".info")]
    assert {name.partition("/")[0] for name in names} == {*packages, "pyproject.toml"}
    assert all(name.endswith((".py", ".toml")) for name in names)


def test_the_path_has_25_points_by_default(finished: tuple[Path, str]) -> None:
    first = json.loads((finished[0] / "test" / "rounds.jsonl").read_text().splitlines()[0])
    (paths,) = first["paths"].values()
    assert len(paths["naive"]["lambdas"]) == len(paths["aligned"]["losses"]) == 25


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        (["--width", "4", "--rounds", "2"], 13, "all 2 rounds are finished in"),
        (["--width", "5", "--rounds", "3"], 13, "holds a run with other settings: width was 4 and is 5"),
        (["--width", "4", "--rounds", "3", "--sites", "3"], 19, "run 'test' has 2 sites, and --sites is 3"),
    ],
)
def test_a_run_that_cannot_go_on_so_is_left_as_it_is(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str], changes: list[str], code: int, told: str
) -> None:
    files = sorted((finished[0] / "test").rglob("*.*"))
    before = [path.read_bytes() for path in files]
    done = run(capsys, "demo", "--runs", str(finished[0]), "--name", "test", *changes)
    assert done.code == code
    assert told in done.err
    assert [path.read_bytes() for path in files] == before


def test_a_demo_goes_on_under_its_name(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Of a run that was interrupted after its first round the second is played, to the bytes of the whole run."""
    whole = finished[0] / "test"
    shutil.copytree(whole, tmp_path / "test")
    store = RunStore(tmp_path / "test")
    store.keep_rounds(1)
    store.checkpoint_path(2).unlink()
    store.tell(failure("interrupted", 130))
    process = start_demo("--width", "4", "--rounds", "2", "--format", "json", runs=tmp_path)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "run 'test' goes on after round 1" in err
    assert json.loads(out)["accuracy"] == json.loads(finished[1])["accuracy"]
    assert store.checkpoint_path(2).read_bytes() == RunStore(whole).checkpoint_path(2).read_bytes()


def test_a_finished_run_keeps_no_replies(finished: tuple[Path, str]) -> None:
    assert list((finished[0] / "test" / "spool").iterdir()) == []


def test_a_finished_run_leaves_no_process(finished: tuple[Path, str]) -> None:
    assert processes_naming(str(finished[0])) == []


@pytest.mark.parametrize("signs", [[signal.SIGINT] * 3, [signal.SIGTERM]], ids=["Ctrl-C thrice", "SIGTERM"])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, signs: list[signal.Signals]) -> None:
    process = start_demo(runs=tmp_path)
    # The ServerApp has come to life, and Ray's processes with it.
    wait_until((tmp_path / "test" / "status.json").exists, 60, "the run begins", every=0.1)
    for sign in signs:
        process.send_signal(sign)
        time.sleep(0.3)  # impatience, not waiting: the next one falls into the ending of the one before
    _, err = finish(process)
    assert process.returncode == 130
    assert "interrupted; nothing is left running" in err
    status = json.loads((tmp_path / "test" / "status.json").read_text())
    assert (status["phase"], status["reason"], status["exit-code"]) == ("failed", "interrupted", 130)
    wait_until(lambda: processes_naming(str(tmp_path)) == [], 5, "nothing is left", every=0.1)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_an_interrupt_while_the_command_starts_shows_no_traceback(tmp_path: Path, seconds: float) -> None:
    process = start_demo(runs=tmp_path)
    time.sleep(seconds)  # into the imports, which take some seconds
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 60)
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert "Traceback" not in err
    wait_until(lambda: processes_naming(str(tmp_path)) == [], 10, "nothing is left", every=0.1)


def test_a_folder_for_runs_that_is_a_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    process = start_demo(runs=tmp_path / "runs")
    _, err = finish(process, 60)
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
    _, err = finish(process, 60)
    assert process.returncode == 2
    assert "99999" in err


def test_a_function_beside_the_caller_is_found_by_the_sites_and_a_folder_named_client_harms_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "mine.py").write_text(MINE)
    arguments = ("--data", "mine:data", "--width", "4", "--rounds", "1")
    process = start_demo(*arguments, runs=tmp_path / "runs", place=tmp_path)
    _, err = finish(process)
    assert process.returncode == 0, err


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start_demo("--port", port, runs=tmp_path)
        _, err = finish(process, 60)
    assert process.returncode == 15
    assert f"port {port} on 127.0.0.1 is taken" in err
    assert "--port" in err


def test_a_run_that_fails_fails_the_command_with_the_reason(tmp_path: Path) -> None:
    process = start_demo("--data", "tests.test_demo:vanishing_data", "--width", "4", runs=tmp_path)
    _, err = finish(process)
    assert process.returncode == 14
    assert "the run ended as finished:failed" in err
    assert "0 sites joined" in err
    assert "the data is gone" in err
    # On no terminal each phase is a line.
    assert "starting Flower\n" in err
    assert "round 1: join\n" in err


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
    _, err = finish(process, 60)
    assert process.returncode == 12
    assert "data 'no/such/place': no such file or folder" in err


def test_the_processes_of_a_home_are_found_wherever_they_went(tmp_path: Path) -> None:
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment)
    try:
        # For an instant after exec, Linux shows a process without its environment.
        wait_until(lambda: processes_of(tmp_path) == [child.pid], 5, "the child is told", every=0.1)
        assert processes_of(tmp_path.parent) == []
    finally:
        child.kill()
        child.wait()
    assert processes_of(tmp_path) == []


def test_what_shows_no_environment_while_it_starts_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux shows a process without its environment while it turns into another program, which is seen by luck only."""
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment)
    ended = subprocess.Popen(["true"])
    ended.wait()
    looks: list[Path] = []

    def unseen_twice(home: Path) -> list[int]:
        looks.append(home)
        return [] if len(looks) <= 2 else processes_of(home)

    monkeypatch.setattr(superlink, "processes_of", unseen_twice)
    try:
        assert superlink.end_all(ended, tmp_path) == []
        assert child.poll() == -signal.SIGTERM
    finally:
        child.kill()
        child.wait()


def test_what_hides_its_environment_is_known_by_its_session(tmp_path: Path) -> None:
    """As Ray's agents do, which write their title over it; one that heeds no SIGTERM outlives all that were known."""
    script = "trap '' TERM; env -i sleep 60 & echo $!; exec sleep 60"
    known = subprocess.Popen(
        ["sh", "-c", script],
        start_new_session=True,
        env=os.environ | {"FLWR_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert known.stdout is not None
    hidden = int(known.stdout.readline())
    wait_until(lambda: processes_of(tmp_path) == [known.pid], 5, "one of the two is known", every=0.1)
    try:
        assert superlink.end_all(known, tmp_path) == []
        assert not Path(f"/proc/{hidden}").exists() or "Z" in Path(f"/proc/{hidden}/stat").read_text().split()
    finally:
        for number in (known.pid, hidden):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        known.wait()
        known.stdout.close()
