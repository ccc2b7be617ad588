"""The example of `docs/own-app.md` does what the page says, in a real Flower run."""

import re
import shutil
from pathlib import Path

import pytest

from cli.flower import CONNECTION
from cli.superlink import local_superlink, short_folder

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_app"
pytestmark = pytest.mark.long


def test_independent_starts_merge_in_an_app_of_ones_own() -> None:
    home = short_folder()
    app = home / "own_app"
    # Flower builds the app where it lies.
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        with local_superlink(home, 0) as link:
            simulated = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1")
            run_id = str(link.flwr("run", str(app), CONNECTION, *simulated)["run-id"])
            status, log = link.wait(run_id), link.run_log(run_id)
    finally:
        shutil.rmtree(home)
    assert status == "finished:completed", log
    accuracy = re.search(r"round 1: accuracy of the merge (0\.\d+)", log)
    assert accuracy is not None, log
    # Without recalibration it is 0.14, with FedAvg 0.11.
    assert float(accuracy[1]) > 0.9, log
