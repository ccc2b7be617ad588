"""The page on what merges are worth says what the records of the runs say."""

import shutil
from pathlib import Path

import pytest

from benchmarks.merging.images import CACHE
from benchmarks.merging.quality import RECORDS
from benchmarks.merging.runs import METHODS, all_kept, kept, record, run_config
from benchmarks.merging.tables import show
from benchmarks.merging.tasks import Task, tasks
from server.store import RunStore
from strategies.settings import parse_settings

PAGE = Path(__file__).parent.parent / "docs" / "merge-quality.md"


@pytest.mark.parametrize("part", ["digits-w16", "digits-w32", "cifar10"])
def test_every_row_of_the_tables_stands_in_the_page(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE, str(RECORDS))
    show(all_kept(tasks(3, [part])))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in page] == []


def test_a_merge_of_sites_that_were_not_measured_alone_is_tabulated_beside_no_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "cifar10-w16-biased-5-s1-sequential-logistic"
    shutil.copytree(RECORDS / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.setenv(CACHE, str(tmp_path))
    show(all_kept(tasks(3, ["cifar10"])))
    printed = capsys.readouterr().out
    assert "joint + sequential + logistic" in printed
    assert "points above" not in printed


def test_a_record_of_other_settings_than_todays_is_not_tabulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("digits", 16, "biased", 2, 0)
    store = RunStore(tmp_path / "cache" / "runs" / f"{task.name}-joint")
    store.directory.mkdir(parents=True)
    shutil.copy(RECORDS / "runs" / store.directory.name / "rounds.jsonl", store.rounds_path)
    place = {"run": store.directory.name, "runs-dir": str(store.directory.parent)}
    store.write_json("settings.json", parse_settings(run_config(task, "joint") | place).model_dump(by_alias=True))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    record(task, tmp_path / "records")
    recorded = tmp_path / "records" / "runs" / store.directory.name / "settings.json"
    assert str(tmp_path) not in recorded.read_text(encoding="utf-8")
    monkeypatch.setenv(CACHE, str(tmp_path / "records"))
    assert kept(task, "joint") is not None
    monkeypatch.setitem(METHODS, "joint", {**METHODS["joint"], "recalibrate-passes": 2})
    assert kept(task, "joint") is None
