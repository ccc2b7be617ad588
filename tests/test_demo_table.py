"""What the demo prints of a run, from its records alone."""

from pathlib import Path

import pytest

from cli.demo import ENDS, show
from server.records import MixStep, PathRecord, RoundRecord, Score, SitePaths
from server.store import RunStore
from server.summary import best_round, summarise
from tests.stores import COMPLETE, FLAT, LINE, write_run

# From a network that knows the samples to one that does not.
RISING = PathRecord(lambdas=[0.0, 0.5, 1.0], losses=[0.1, 1.3, 2.9], accuracies=[0.9, 0.5, 0.1], barrier=1.4)


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *records: RoundRecord) -> str:
    store = RunStore(write_run(tmp_path / "run", list(records)))
    show(summarise(store), store.directory / "report.html")
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("naive", "aligned", "told"),
    [(LINE, FLAT, False), (RISING, RISING, True), (LINE, RISING, False), (None, RISING, True), (None, LINE, False)],
)
def test_a_barrier_that_is_but_the_difference_of_two_networks_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], naive: PathRecord | None, aligned: PathRecord, told: bool
) -> None:
    paths = {"site-eu": SitePaths(naive=naive, aligned=aligned)}
    assert (ENDS in printed(tmp_path, capsys, COMPLETE.model_copy(update={"paths": paths}))) is told


def test_what_mix_took_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [MixStep(towards="mean", stage="", lam=1.0, loss=0.5, before=0.9)]
    assert "mix took the merge of all sites" in printed(tmp_path, capsys, COMPLETE.model_copy(update={"mix": steps}))
    assert "mix took" not in printed(tmp_path, capsys, COMPLETE)


def test_a_round_of_less_loss_than_the_last_is_told_with_its_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = COMPLETE.model_copy(update={"round": 2, "merged": Score(accuracy=0.99, loss=2.3, count=100)})
    void = COMPLETE.model_copy(update={"round": 3, "outcome": "void", "merged": None})
    told = "round 1 has less loss than the last: its network is"
    assert f"{told} {tmp_path / 'run' / 'checkpoints' / 'round-0001.safetensors'}" in printed(
        tmp_path, capsys, COMPLETE, worse, void
    )
    better = COMPLETE.model_copy(update={"merged": worse.merged})
    assert "less loss" not in printed(tmp_path, capsys, better, COMPLETE.model_copy(update={"round": 2}), void)


def test_a_round_without_a_finite_loss_is_not_the_best(tmp_path: Path) -> None:
    unknown = COMPLETE.model_copy(update={"merged": Score(accuracy=0.1, loss=float("nan"), count=100)})
    unmeasured = COMPLETE.model_copy(update={"round": 3, "merged": None})
    second = COMPLETE.model_copy(update={"round": 2})
    assert best_round([unknown, second, unmeasured]) is second
    assert best_round([unknown, unmeasured]) is None
    assert best_round([second, COMPLETE]) is second
