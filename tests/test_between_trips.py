"""A run that was killed between two trips of a round goes on from its disk, and ends as if nothing had happened."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

from flwr.app import Message

from client.app import app
from server.app import play
from server.resume import begin
from server.store import RunStore
from strategies.settings import Settings, parse_settings
from tests.inprocess import InProcessGrid, play_in_process, quick_settings

N_SITES = 2
TRIPS_TO_A_REFERENCE = ["query.describe", "train", "query.network", "query.align"]
# By the second and later layers, statistics between them come first.
TRIPS_OF_A_MERGE = ["query.outputs", "query.recalibrate", "query.outputs", "query.recalibrate"]
TRIPS_OF_A_HEAD = ["query.features", "evaluate", "evaluate"]


def two_rounds(directory: Path) -> Settings:
    return quick_settings(
        directory,
        rounds=2,
        align_at="both",
        merge="sequential",
        head="ridge",
        norm="batch",
        distillation=1.0,
        probe_points=0,
        epochs=1,
        later_epochs=1,
        width=8,
        depth=1,
    )


@dataclass
class Copying(InProcessGrid):
    """What lies on all disks, the server's and the sites', is copied before each trip, all earlier answers being in."""

    copies: list[tuple[str, Path]] = field(default_factory=list[tuple[str, Path]])

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        trip = sent[0].metadata.message_type if sent else ""
        # Where each site is sent a network of its own, one trip is a message after another.
        if trip and not (trip == "query.outputs" and self.copies[-1][0] == trip):
            runs = Path(self.settings.runs_dir)
            copied = runs.parent / f"before trip {len(self.copies)}"
            copytree(runs, copied)
            self.copies.append((trip, copied))
        return super().push_messages(sent)


def left(store: RunStore) -> tuple[bytes, list[object]]:
    """The last network, and the rounds' lines without what tells of time."""
    return store.checkpoint_path(2).read_bytes(), [json.loads(line, object_hook=timeless) for line in store.lines()]


def timeless(told: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in told.items() if key not in ("seconds", "finished")}


def test_killed_between_any_two_trips_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    settings = two_rounds(tmp_path / "runs")
    grid, store = Copying(app, settings, N_SITES), RunStore(Path(settings.runs_dir) / settings.run)
    with store.held():
        play(grid, settings, store, begin(store, settings))
    undisturbed = left(store)
    trips = [trip for trip, _ in grid.copies]
    later = [*TRIPS_OF_A_MERGE, *TRIPS_OF_A_HEAD]
    assert trips == [*TRIPS_TO_A_REFERENCE, *later, "train", *later]
    for trip, runs in grid.copies:
        resumed = parse_settings({**settings.model_dump(by_alias=True), "runs-dir": str(runs)})
        assert left(play_in_process(resumed, N_SITES)) == undisturbed, f"killed before {trip}, {runs.name}"
