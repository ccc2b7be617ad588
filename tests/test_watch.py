"""`fedrebasin watch` shows a run as it goes, and ends with it."""

import json
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cli.watch import shown
from server.follow import Folder, Run
from server.snapshot import snapshot
from tests.commands import run as command
from tests.observability.replay import replay
from tests.stores import COMPLETE, TRAINING, VOID, line, write_run


def read(folder: Path) -> Run:
    found = Folder.at(folder).run()
    assert found is not None
    found.tail.read()
    return found


def test_a_snapshot_tells_phase_sites_barrier_and_time_left(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [COMPLETE, VOID], TRAINING, rounds=5))
    now = snapshot(run, 1_700_003_870.0)
    assert (now.round, now.rounds, now.phase, now.seconds_in_phase, now.seconds_left) == (3, 5, "train", 70.0, 30.0)
    assert {site.site: site.state for site in now.sites} == {
        "site-3": "refused: not finite",
        "site-eu": "waiting",
        "site-us": "answered",
    }
    assert (now.replied, now.asked) == (2, 3)
    # The last merge is shown, not the void round after it.
    assert now.merged_round == 1
    assert now.barrier == COMPLETE.barrier
    told = {"merged": 0.95, "naive": 0.6, "ensemble": 0.97, "best_site": 0.9, "sites_mean": 0.85}
    told |= {"best_before_merge": 0.9, "mean_before_merge": 0.85}
    assert now.accuracy == pytest.approx(told)
    assert {site.site: site.barrier_aligned for site in now.sites}["site-eu"] == 0.1


def test_no_site_has_a_share_under_a_rule_that_goes_by_no_weights(tmp_path: Path) -> None:
    for rule, share in (("mean", 0.75), ("median", None)):
        run = read(write_run(tmp_path / rule, [COMPLETE], TRAINING, rule=rule))
        assert {site.site: site.share for site in snapshot(run, 0.0).sites}["site-us"] == share


def test_past_the_deadline_nothing_is_left(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [], TRAINING))
    assert snapshot(run, 1_700_009_999.0).seconds_left == 0
    assert snapshot(run, 1_700_009_999.0).barrier is None


def test_what_is_left_until_the_deadline_is_not_called_the_time_left_of_the_run(tmp_path: Path) -> None:
    now = snapshot(read(write_run(tmp_path / "run", [COMPLETE, VOID], TRAINING, rounds=5)), 1_700_003_870.0)
    seen = Console(file=StringIO(), width=80)
    seen.print(shown(now))
    assert isinstance(seen.file, StringIO)
    head = seen.file.getvalue().splitlines()[0]
    assert "2 of 3 replied, deadline in 0:30" in head
    assert "left" not in head


def test_as_json_it_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "here", [COMPLETE], TRAINING)
    done = command(capsys, "watch", "here", "--runs", tmp_path, "--format", "json")
    assert done.code == 0
    now = json.loads(done.out)
    assert (now["merged_round"], now["state"], now["exit_code"]) == (1, "active", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"round": 3, "pha', "Invalid JSON"), ('["not", "ours"]', "should be an object"), ('{"round": "x"}', "round: ")],
)
def test_a_status_that_is_none_ends_the_command_with_the_file_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    run = write_run(tmp_path / "run", [])
    (run / "status.json").write_text(content)
    done = command(capsys, "watch", run)
    assert done.code == 13
    assert f"{run / 'status.json'}: not the status of a run: " in done.err
    assert said in done.err
    assert "start it again under the same name" in done.err


def test_a_dead_run_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [COMPLETE], TRAINING)
    (run / ".lock").touch()
    done = command(capsys, "watch", run)
    assert done.code == 15
    assert "run 'run': no process plays it any more; it was in round 3, phase 'train'" in done.err
    assert "it resumes" in done.err


def test_a_run_that_is_being_started_again_is_not_dead(tmp_path: Path) -> None:
    starting: dict[str, object] = {"phase": "starting", "updated": time.time()}
    run = write_run(tmp_path / "run", [COMPLETE], TRAINING | starting)
    (run / ".lock").touch()
    assert snapshot(read(run), time.time()).state == "active"


def test_what_is_printed_elsewhere_than_on_a_terminal_ends_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = command(capsys, "watch", write_run(tmp_path / "run", [COMPLETE]))
    assert done.out.endswith("mean 0.850\n")


def test_a_run_that_has_ended_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command(capsys, "watch", write_run(tmp_path / "run", [COMPLETE]))
    assert done.code == 0
    assert "barrier naive 1.100, aligned 0.100 nats" in done.out
    assert "accuracy merged 0.950, best site alone 0.900" in done.out
    assert "sites before this merge: best 0.900, mean 0.850" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_half_written_line_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [COMPLETE])
    with (run / "rounds.jsonl").open("a") as file:
        file.write(line(VOID)[:-20])
    done = command(capsys, "watch", run, "--format", "json")
    assert (done.code, json.loads(done.out)["merged_round"]) == (0, 1)


def test_an_alignment_that_the_guard_undid_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = {"site-eu": COMPLETE.guard["site-eu"].model_copy(update={"decision": "undone"})}
    run = write_run(tmp_path / "run", [COMPLETE.model_copy(update={"guard": guard})])
    assert "guard: alignment undone of site-eu" in command(capsys, "watch", run).out
    assert json.loads(command(capsys, "watch", run, "--format", "json").out)["undone"] == ["site-eu"]
    kept = command(capsys, "watch", write_run(tmp_path / "kept", [COMPLETE]))
    assert "undone" not in kept.out


def test_where_no_site_was_measured_alone_it_says_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command(capsys, "watch", write_run(tmp_path / "run", [COMPLETE.model_copy(update={"baselines": {}})]))
    assert "accuracy merged 0.950, best site alone unknown" in done.out


def test_a_failed_run_ends_the_command_as_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [], {"phase": "failed", "reason": "1 site joined", "exit-code": 14})
    done = command(capsys, "watch", run)
    assert done.code == 14
    assert "run 'run' failed: 1 site joined" in done.err


def test_a_run_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "monday", [])
    done = command(capsys, "watch", "tuesday", "--runs", tmp_path)
    assert done.code == 13
    assert "no run 'tuesday'" in done.err
    assert "there are: monday" in done.err


def test_a_folder_of_runs_that_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command(capsys, "watch", "tuesday", "--runs", tmp_path / "missing")
    assert done.code == 13
    assert f"{tmp_path / 'missing'} is no folder; name the folder of the runs with --runs" in done.err


def test_it_follows_a_growing_run_to_its_end(tmp_path: Path) -> None:
    recording = replay(tmp_path / "run", seconds=8)
    program = str(Path(sys.executable).parent / "fedrebasin")
    process = subprocess.Popen([program, "watch", str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        recording.play()
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "round 7 of 7" in out
    assert "barrier naive 0.309, aligned 0.309 nats" in out
