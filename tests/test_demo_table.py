"""What the demo prints of a run, from its records alone."""

from pathlib import Path

import pytest

from cli.demo import ENDS, show
from server.records import MixStep, PathRecord, RoundRecord, Score, SitePaths
from server.store import RunStore
from server.summary import best_round, less_loss, summarise
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


def measured(number: int, loss: float, count: int = 100) -> RoundRecord:
    return COMPLETE.model_copy(update={"round": number, "merged": Score(accuracy=0.9, loss=loss, count=count)})


def kept(store: RunStore, *numbers: int) -> RunStore:
    """The store, with networks of these rounds alone."""
    store.make()
    for number in numbers:
        store.checkpoint_path(number).touch()
    return store


def test_a_round_of_less_loss_than_the_last_is_told_with_its_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = kept(RunStore(tmp_path / "run"), 1, 2, 3)
    void = COMPLETE.model_copy(update={"round": 3, "outcome": "void", "merged": None})
    told = f"round 1 has less loss than the last: its network is {store.checkpoint_path(1)}"
    assert told in printed(tmp_path, capsys, measured(1, 0.2), measured(2, 2.3), void)
    assert told in printed(tmp_path, capsys, measured(1, 0.2), measured(2, float("nan")), void)
    for better in ([measured(1, 2.3), measured(2, 0.2), void], [measured(1, 0.2), measured(2, 0.2)]):
        assert "less loss" not in printed(tmp_path, capsys, *better)


def test_of_an_unmeasured_merge_and_of_one_on_fewer_samples_no_round_is_said_to_be_better(tmp_path: Path) -> None:
    store = kept(RunStore(tmp_path / "run"), 1, 2)
    unmeasured = COMPLETE.model_copy(update={"round": 2, "merged": None})
    assert less_loss(store, [measured(1, 0.2), unmeasured]) == ""
    assert less_loss(store, [measured(1, 0.2), measured(2, 0.3, count=50)]) == ""


def test_the_best_round_has_least_loss_on_most_samples_and_its_network_is_there(tmp_path: Path) -> None:
    store = kept(RunStore(tmp_path / "run"), 2, 3, 4, 5)
    first, second, third = measured(1, 0.1), measured(2, 0.4), measured(3, 0.3)
    fewer, unknown = measured(4, 0.05, count=50), measured(5, float("nan"))
    assert best_round(store, [first, second, third, fewer, unknown]) is third
    assert best_round(store, [unknown]) is None
    assert best_round(store, [fewer, unknown]) is fewer
