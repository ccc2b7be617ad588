"""Records a real Flower run as it looks from outside: every state of ``status.json`` beside ``rounds.jsonl``.

``python -m benchmarks.record FOLDER`` plays four sites for seven rounds on the digits, and has sites fail as they do:
in round 3 one answers with an error, in round 4 one is silent past the deadline, in round 5 two fail and the round is
void. What it writes is what the tests of the screen replay, and what docs/observing.md shows (some ten minutes).
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cli.interrupts import terminable
from cli.superlink import local_superlink, short_folder
from models import Architecture, build
from server.live import ENDS
from server.store import RunStore

NAME = "recorded"
STORE = "FEDREBASIN_RECORDED_RUN"
DEADLINE_SECONDS = 240
KEPT = ("settings.json", "rounds.jsonl", "status.jsonl")
# By round: how many sites fail in training, and how.
TROUBLE = {3: ("fails",), 4: ("sleeps",), 5: ("fails", "fails")}
CONFIG: dict[str, object] = {
    "run": NAME,
    "model": "benchmarks.record:network",
    "width": 16,
    "depth": 8,
    "rounds": 7,
    "min-sites": 3,
    "head": "ridge",
    "baselines": True,
    "probe-points": 9,
    "round-deadline-seconds": DEADLINE_SECONDS,
}
N_SITES = 4


def main(folder: Path) -> None:
    """Plays the run and keeps its record in ``folder``."""
    home = short_folder()
    with tempfile.TemporaryDirectory() as runs:
        store = RunStore(Path(runs) / NAME)
        os.environ[STORE] = str(store.directory)
        watcher = threading.Thread(target=watch, args=(store.directory,), daemon=True)
        watcher.start()
        try:
            with terminable(), local_superlink(home, 0) as link:
                run_id = link.submit(CONFIG | {"runs-dir": runs}, N_SITES)
                if (said := link.wait(run_id, 5.0)) != "finished:completed":
                    sys.exit(f"{said}\n{link.run_log(run_id)[-4000:]}")
        finally:
            shutil.rmtree(home, ignore_errors=True)
        watcher.join()
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            text = (store.directory / name).read_text(encoding="utf-8")
            (folder / name).write_text(text.replace(runs, "runs"), encoding="utf-8")


def watch(store: Path) -> None:
    """Appends every new state of ``status.json`` to ``status.jsonl``, until the run has ended."""
    last: dict[str, object] = {}
    while last.get("phase") not in ENDS:
        with suppress(OSError):
            now = json.loads((store / "status.json").read_text(encoding="utf-8"))
            if now != last:
                with (store / "status.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(now) + "\n")
                last = now
        time.sleep(0.01)


def network(architecture: Architecture) -> nn.Module:
    """The run's network; at a site whose turn it is to fail, failure."""
    store = os.environ.get(STORE)
    if store and (Path(store) / "status.json").exists():
        now = json.loads((Path(store) / "status.json").read_text(encoding="utf-8"))
        for number, kind in enumerate(TROUBLE.get(now["round"], ()) if now["phase"] == "train" else ()):
            with suppress(FileExistsError):
                (Path(store) / f"trouble-{now['round']}-{number}").touch(exist_ok=False)
                fail(kind)
    # The caller has seeded torch for this very network.
    return build(replace(architecture, model="resnet20"), torch.initial_seed())


def fail(kind: str) -> None:
    """Raises, or sleeps past the deadline."""
    if kind == "fails":
        raise RuntimeError("the disk with the data is gone")
    time.sleep(DEADLINE_SECONDS + 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
