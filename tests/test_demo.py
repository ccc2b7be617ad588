"""The demo: a real Flower run, from the command line to the report."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cli.demo as demo
from cli.flower import ROOT, packages, stage_app
from cli.interrupts import Interrupted
from server.live import failure
from server.store import RunStore
from strategies.settings import Settings, as_shown
from tests.commands import run
from tests.demos import finish, processes_naming, start_demo

pytestmark = pytest.mark.long
MINE = """
from sklearn.datasets import load_digits

def data():
    digits = load_digits()
    return digits.images[:, None] / 16, digits.target
"""
PLAYED = ("--data", "mine:data", "--width", "4", "--rounds", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the caller stands: with a function of theirs, and a folder that has a name of ours."""
    place = tmp_path_factory.mktemp("place")
    (place / "client").mkdir()
    (place / "client" / "__init__.py").write_text("raise RuntimeError('not this one')")
    (place / "mine.py").write_text(MINE)
    return place


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, place: Path) -> tuple[Path, str]:
    """One real run, shared by the tests that look at what it leaves."""
    runs = tmp_path_factory.mktemp("runs")
    process = start_demo(*PLAYED, "--format", "json", runs=runs, place=place)
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
    assert set(document) == {"accuracy", "loss", "barrier", "ends", "merge", "taken", "best", "seconds", "run"}
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


def test_a_function_beside_the_caller_is_found_by_the_sites_and_a_folder_named_client_harms_nothing(
    finished: tuple[Path, str],
) -> None:
    settings = json.loads((finished[0] / "test" / "settings.json").read_text())
    assert settings["data"] == "mine:data"


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ([], 13, "all 2 rounds are finished in"),
        (["--width", "5", "--rounds", "3"], 13, "holds a run with other settings: width was 4 and is 5"),
        (["--rounds", "3", "--sites", "3"], 19, "run 'test' has 2 sites, and --sites is 3"),
    ],
)
def test_a_run_that_cannot_go_on_so_is_left_as_it_is(
    finished: tuple[Path, str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the caller's folder is added
    files = sorted((finished[0] / "test").rglob("*.*"))
    before = [path.read_bytes() for path in files]
    done = run(capsys, "demo", "--runs", str(finished[0]), "--name", "test", *PLAYED, *changes)
    assert done.code == code
    assert told in done.err
    assert [path.read_bytes() for path in files] == before


def test_a_demo_goes_on_under_its_name(finished: tuple[Path, str], place: Path, tmp_path: Path) -> None:
    """Of a run that was interrupted after its first round the second is played, to the bytes of the whole run."""
    whole = finished[0] / "test"
    shutil.copytree(whole, tmp_path / "test")
    store = RunStore(tmp_path / "test")
    store.keep_rounds(1)
    store.checkpoint_path(2).unlink()
    store.tell(failure("interrupted", 130))
    process = start_demo(*PLAYED, "--format", "json", runs=tmp_path, place=place)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "run 'test' goes on after round 1" in err
    assert json.loads(out)["accuracy"] == json.loads(finished[1])["accuracy"]
    assert store.checkpoint_path(2).read_bytes() == RunStore(whole).checkpoint_path(2).read_bytes()


def test_a_finished_run_keeps_no_replies(finished: tuple[Path, str]) -> None:
    assert list((finished[0] / "test" / "spool").iterdir()) == []


def test_a_finished_run_leaves_no_process(finished: tuple[Path, str]) -> None:
    assert processes_naming(str(finished[0])) == []
