"""What the demo prints of a run, from its records alone."""

from pathlib import Path

import pytest

from cli.demo import ENDS, show
from server.records import MixStep, PathRecord, RoundRecord, SitePaths
from server.store import RunStore
from server.summary import summarise
from tests.stores import COMPLETE, FLAT, LINE, write_run

# From a network that knows the samples to one that does not.
RISING = PathRecord(lambdas=[0.0, 0.5, 1.0], losses=[0.1, 1.3, 2.9], accuracies=[0.9, 0.5, 0.1], barrier=1.4)


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], record: RoundRecord) -> str:
    store = RunStore(write_run(tmp_path / "run", [record]))
    show(summarise(store), tmp_path / "report.html")
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
