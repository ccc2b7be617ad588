"""What differential privacy costs is told before a run, in its log and in its report: the noise, and the budget."""

import math
import re
from pathlib import Path

import pytest

from server.records import RoundRecord
from server.report import write_report
from server.store import RunStore
from strategies.noise import budget, drowned, noise_deviation
from strategies.settings import Settings, parse_settings
from tests.commands import run_settings
from tests.inprocess import play_in_process
from tests.stores import COMPLETE, VOID, write_run

PRIVATE: dict[str, object] = {"privacy": "local-dp", "align-at": "site", "start": "shared", "probe-points": 0}
TOML = 'privacy = "local-dp"\nalign-at = "site"\nstart = "shared"\nprobe-points = 0\nmin-sites = 3\n'


def private(**changes: object) -> Settings:
    return parse_settings(PRIVATE | {key.replace("_", "-"): value for key, value in changes.items()})


def test_the_deviation_is_that_of_the_gaussian_mechanism() -> None:
    assert noise_deviation(private()) == pytest.approx(2 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5)
    assert noise_deviation(private(clipping_norm=3.0)) == pytest.approx(3 * noise_deviation(private()))


def test_a_merge_that_is_nearly_all_noise_is_told_with_figures() -> None:
    (line,) = drowned(private(min_sites=4, clipping_norm=2.0), 10_000)
    # 38.76 on each entry of a site's, half of that on the mean of four, and 100 times that on 10,000 entries; over 2.
    assert "the mean of 4 sites has noise of deviation 19.4 on each of 10,000 parameters" in line
    assert "together 969 times the norm that an update has at most (clipping-norm = 2)" in line
    # The noise falls with the root of how many they are.
    enough = int(re.findall(r"some ([\d,]+) sites", line)[0].replace(",", ""))
    assert noise_deviation(private()) * math.sqrt(10_000 / enough) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("min_sites", "told"), [(375, True), (377, False)])
def test_noise_that_leaves_something_of_an_update_is_not(min_sites: int, told: bool) -> None:
    # 19.38² · 100 / 10² sites.
    assert bool(drowned(private(min_sites=min_sites), 100)) is told


@pytest.mark.parametrize("privacy", ["none", "clipping", "secure-aggregation"])
def test_without_noise_there_is_nothing_to_tell(privacy: str) -> None:
    settings = private(privacy=privacy, min_sites=3)
    assert drowned(settings, 10_000_000) == []
    assert budget(settings, 3) == ""


def test_rounds_add_up() -> None:
    assert budget(private(), 3).startswith("3 rounds together are (ε, δ) = (1.5, 3e-05) private")
    assert budget(private(dp_epsilon=0.25), 1).startswith("1 round is (ε, δ) = (0.25, 1e-05) private")


def test_it_is_told_before_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_settings(tmp_path, capsys, TOML)
    assert done.code == 0
    assert "warning: setting 'privacy' = 'local-dp': the mean of 3 sites has noise of deviation 11.2" in done.err
    assert "privacy = 'local-dp': 3 rounds together are (ε, δ) = (1.5, 3e-05) private" in done.err


def test_it_stands_in_the_runs_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small: dict[str, object] = {"model": "mlp", "width": 4, "depth": 1, "epochs": 0, "rounds": 1}
    play_in_process(parse_settings({**PRIVATE, **small, "runs-dir": str(tmp_path)}))
    assert "the mean of 2 sites has noise of deviation 13.7" in caplog.text


@pytest.mark.parametrize(("privacy", "told"), [("local-dp", True), ("none", False)])
def test_the_report_tells_what_its_rounds_gave_away(tmp_path: Path, privacy: str, told: bool) -> None:
    rounds: list[RoundRecord] = [COMPLETE, VOID]
    store = RunStore(write_run(tmp_path / "run", rounds, privacy=privacy))
    page = write_report(store).read_text(encoding="utf-8")
    assert ("2 rounds together are (ε, δ) = (1, 2e-05) private for a site" in page) is told
