"""The order in which sites answer changes no byte."""

from collections.abc import Iterable
from pathlib import Path

from flwr.app import Message, RecordDict

from client.app import app
from server.app import play
from server.resume import begin
from server.sites import Sites
from server.store import RunStore
from strategies.protocol import DESCRIBE
from strategies.settings import Settings
from tests.inprocess import InProcessGrid, quick_settings

RESNET: dict[str, object] = {
    "model": "resnet20",
    "depth": 8,
    "width": 4,
    "epochs": 1,
    "split": "dirichlet",
    "align_at": "both",
    "head": "ridge",
    "join_deadline_seconds": 60.0,
}


class LastFirst(InProcessGrid):
    """Who was asked last answers first."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """A reply, once none to a later message is left."""
        return super().pull_messages([each for each in message_ids if each == next(reversed(self.replies), None)])


def merged(settings: Settings, grid: type[InProcessGrid]) -> bytes:
    store = RunStore(Path(settings.runs_dir) / settings.run)
    with store.held():
        play(grid(app, settings, 3), settings, store, begin(store, settings))
    return store.checkpoint_path(1).read_bytes()


def test_the_merge_is_the_same_whoever_answers_first(tmp_path: Path) -> None:
    one, other = (
        merged(quick_settings(tmp_path / grid.__name__, **RESNET), grid) for grid in (InProcessGrid, LastFirst)
    )
    assert one == other


def test_answers_are_in_the_order_of_names_whoever_answers_first(tmp_path: Path) -> None:
    """Sums are added up in it: the last bits of a sum in another order are others, though few merges show them."""
    settings = quick_settings(tmp_path, join_deadline_seconds=60.0)
    sites = Sites(LastFirst(app, settings, 3), settings)
    sites.join()
    arrived: list[str] = []
    found = sites.answers(DESCRIBE, RecordDict(), lambda site, reply: arrived.append(site))
    assert arrived == ["site-us", "site-eu", "site-3"]
    assert list(found) == ["site-3", "site-eu", "site-us"]
