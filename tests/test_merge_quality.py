"""The pages on what merges are worth say what the records of the runs say."""

import re
import shutil
from pathlib import Path
from statistics import mean

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from benchmarks.merging.images import CACHE, cifar10, decode
from benchmarks.merging.pages import FOLDER, PARTS, SUMMARY, page, summary
from benchmarks.merging.quality import POOLED, RECORDS
from benchmarks.merging.runs import METHODS, ONWARDS, all_kept, kept, record, run_config
from benchmarks.merging.summary import STARTS, renewed
from benchmarks.merging.tables import tables
from benchmarks.merging.tasks import Task, tasks
from server.store import RunStore
from strategies.settings import parse_settings


@pytest.mark.parametrize("name", PARTS)
def test_the_pages_of_tables_are_those_of_the_records(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(PARTS[name].records))
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == page(PARTS[name]), "`make pages` renews them"


def test_the_tables_that_sum_them_up_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(RECORDS))
    assert SUMMARY.read_text(encoding="utf-8") == summary(), "`make pages` renews them"


def test_a_table_that_sums_up_says_of_how_few_seeds_a_number_is_and_leaves_empty_what_was_not_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("joint", "sequential-logistic"):
        name = f"digits-w16-biased-2-s1-{method}"
        shutil.copytree(RECORDS / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.setenv(CACHE, str(tmp_path))
    lines = summary().splitlines()
    assert "| digits, width 16, two sites | 1.7 (1) | 0.0 (1) |  |  |" in lines
    assert "| digits, width 16, five sites |  |  |  |  |" in lines


def test_a_start_of_rounds_is_tabulated_by_the_round_in_which_it_passes_the_best_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("joint", "rounds", "rounds-scratch"):
        name = f"digits-w16-biased-2-s1-{method}"
        shutil.copytree(RECORDS / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.setenv(CACHE, str(tmp_path))
    lines = summary().splitlines()
    rows = [line for line in lines if "digits, width 16, two sites, biased" in line]
    assert rows == ["| digits, width 16, two sites, biased | s1 0.978 | s1 3, 0.986 | s1 no, 0.958 |"]
    assert "|  | best corrected site | `rounds` | `rounds-scratch` |" in lines
    assert set(STARTS) < set(ONWARDS)


def test_images_are_decoded_once_and_those_of_another_folder_are_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        images = Dataset.from_dict(
            {"image": [Picture.new("L", (8, 8))] * 4, "label": [0, 1, 0, 1]},
            features=Features({"image": Image(), "label": Value("int64")}),
        )
        images.to_parquet(tmp_path / name / "train.parquet")
    path = decode(str(tmp_path / "one"))
    made = path.stat().st_mtime_ns
    assert decode(str(tmp_path / "one")).stat().st_mtime_ns == made
    assert cifar10()[1].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=f"expected the images of .*/other, got those of .*/one; .*{CACHE}"):
        decode(str(tmp_path / "other"))


def test_a_table_that_has_lost_its_place_is_not_left_as_it_was() -> None:
    text = SUMMARY.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="table: aims"):
        renewed(text.replace("<!-- table: aims -->\n", ""), [])


def test_a_page_has_a_command_for_each_run_of_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(RECORDS))
    commands = re.findall(r"--seeds (\d) --only (\S+) --methods (.+)", page(PARTS["digits-w16"]))
    named = {
        (task.name, method)
        for seeds, only, by in commands
        for task in tasks(int(seeds), [only])
        for method in by.split()
        if method != POOLED
    }
    played = {(run.task.name, run.method) for run in all_kept(tasks(3, ["digits-w16"]))}
    assert len(played) > 100
    assert named == played


def test_a_merge_of_sites_that_were_not_measured_alone_is_tabulated_beside_no_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cifar10-w16-biased-5-s1-sequential-logistic"
    shutil.copytree(RECORDS / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.setenv(CACHE, str(tmp_path))
    printed = tables(all_kept(tasks(3, ["cifar10"])))
    assert "joint + sequential + logistic" in printed
    assert "points above" not in printed


def test_each_site_alone_is_tabulated_as_it_is_and_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("digits-w16-biased-2-s0-ridge", "digits-w16-biased-2-s1-joint"):
        shutil.copytree(RECORDS / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.setenv(CACHE, str(tmp_path))
    runs = all_kept(tasks(3, ["digits"]))
    assert len(runs) == 2
    table = tables(runs).splitlines()
    at = table.index("| each site alone; corrected | site-eu | site-us |")
    scores = [run.first.baselines for run in runs]
    cells = [
        "; ".join(f"{mean(each[site + ending].accuracy for each in scores):.3f}" for ending in ("", ".corrected"))
        for site in ("site-eu", "site-us")
    ]
    assert table[at + 2 : at + 4] == [f"| digits-w16-biased-2 | {' | '.join(cells)} |", ""]


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
