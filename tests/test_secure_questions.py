"""What a site of secure aggregation refuses to be asked: each would open less than the sum over all sites."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from flwr.app import ConfigRecord, Message
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage

from client.app import app
from server.app import play
from server.resume import begin
from server.store import RunStore
from server.summary import read_rounds
from tests.inprocess import FIRST_NODE, InProcessGrid, quick_settings

Lie = Callable[[ConfigRecord], None]
SECURE = {"start": "shared", "align_at": "site", "probe_points": 0, "privacy": "secure-aggregation", "epochs": 1}
N_SITES = 5
VICTIM = FIRST_NODE + 4
EVERYBODY = [FIRST_NODE + number for number in range(N_SITES)]


@dataclass
class LyingGrid(InProcessGrid):
    """Asks site 1 something else too, at one stage: before what it should ask, or ``after`` it."""

    stage: str = Stage.UNMASK
    lie: Lie = lambda config: None
    after: bool = False
    answers: list[Message] = field(default_factory=list[Message])

    def _push(self, message: Message) -> str:
        config = message.content.config_records.get(RECORD_KEY_CONFIGS, ConfigRecord())
        lies = message.metadata.dst_node_id == FIRST_NODE and config.get(Key.STAGE) == self.stage
        if lies and not self.after:
            self._ask_falsely(message)
        message_id = super()._push(message)
        if lies and self.after:
            self._ask_falsely(message)
        return message_id

    def _ask_falsely(self, message: Message) -> None:
        false = copy.deepcopy(message)
        false.metadata.__dict__["_message_id"] = "false"
        self.lie(false.content.config_records[RECORD_KEY_CONFIGS])
        self.answers.append(self.app(false, self.context(0)))


def asked(tmp_path: Path, stage: str, lie: Lie, *, after: bool = False) -> Message:
    """What site 1 answers. To what it should be asked it answers all the same, and the round merges."""
    settings = quick_settings(tmp_path, **SECURE, min_sites=3, secure_threshold=0.7, round_deadline_seconds=2.0)
    grid = LyingGrid(app, settings, N_SITES, stage=stage, lie=lie, after=after)
    store = RunStore(Path(settings.runs_dir) / settings.run)
    with store.held():
        play(grid, settings, store, begin(store, settings))
    (record,) = read_rounds(store)
    assert len(record.weights) == N_SITES
    (answer,) = grid.answers
    return answer


def alive_and_lost(config: ConfigRecord) -> None:
    config[Key.DEAD_NODE_ID_LIST] = [VICTIM]


def one_as_four(config: ConfigRecord) -> None:
    config[Key.ACTIVE_NODE_ID_LIST] = [FIRST_NODE, VICTIM, VICTIM, VICTIM]


def lost_twice(config: ConfigRecord) -> None:
    config[Key.ACTIVE_NODE_ID_LIST] = EVERYBODY[:4]
    config[Key.DEAD_NODE_ID_LIST] = [VICTIM, VICTIM]


def without_itself(config: ConfigRecord) -> None:
    config[Key.ACTIVE_NODE_ID_LIST] = EVERYBODY[1:]
    config[Key.DEAD_NODE_ID_LIST] = [FIRST_NODE]


def masked_with_one(config: ConfigRecord) -> None:
    """Its network would go out with one other's mask: of the two the server could read the mean."""
    for key in (Key.SOURCE_LIST, Key.CIPHERTEXT_LIST):
        first, *others = cast(list[int], config[key])
        config[key] = [first] * (1 + len(others))


def more_shares_than_sites(config: ConfigRecord) -> None:
    config[Key.SHARE_NUMBER] = 10


@pytest.mark.parametrize(
    ("stage", "lie"),
    [
        (Stage.SETUP, more_shares_than_sites),
        (Stage.COLLECT_MASKED_VECTORS, masked_with_one),
        (Stage.UNMASK, alive_and_lost),
        (Stage.UNMASK, one_as_four),
        (Stage.UNMASK, lost_twice),
        (Stage.UNMASK, without_itself),
    ],
)
def test_a_question_that_opens_less_than_the_sum_is_not_answered(tmp_path: Path, stage: str, lie: Lie) -> None:
    assert asked(tmp_path, stage, lie).error.reason == "OperatorError: see the site's own log"


def now_lost(config: ConfigRecord) -> None:
    config[Key.ACTIVE_NODE_ID_LIST] = EVERYBODY[:4]
    config[Key.DEAD_NODE_ID_LIST] = [VICTIM]


def test_once_opened_a_sum_is_not_opened_for_others(tmp_path: Path) -> None:
    """First alive, then lost: Flower answers each stage once."""
    assert asked(tmp_path, Stage.UNMASK, now_lost, after=True).has_error()
