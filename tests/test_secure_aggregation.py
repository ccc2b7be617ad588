"""Flower's SecAgg+ around aligned networks: the server reads their mean, and none of them."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from torch import Tensor

from client.app import app
from client.own import load_own
from client.site import Site
from server.store import RunStore
from server.summary import read_rounds
from strategies.mean import exact_mean
from strategies.protocol import ARRAYS, TRAIN, to_arrays
from strategies.settings import Settings
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, honest, play_in_process, quick_settings

SECURE = {"start": "shared", "align_at": "site", "probe_points": 0, "privacy": "secure-aggregation", "epochs": 1}
N_SITES = 5


def secure_settings(tmp_path: Path, **changes: object) -> Settings:
    return quick_settings(tmp_path, **{**SECURE, "min_sites": 3, "round_deadline_seconds": 2.0, **changes})


def expected_mean(store: RunStore) -> dict[str, Tensor]:
    """Of the networks on the sites' own disks, which a shared start leaves in order."""
    (record,) = read_rounds(store)
    states = [load_own(Site(site, store.directory / "sites" / site, "digits")) for site in record.weights]
    found = store.network(1)
    return exact_mean([state for state in states if state is not None], list(record.weights.values()), found)


def greatest_error(store: RunStore) -> float:
    found, expected = store.network(1), expected_mean(store)
    return max((found[name].double() - expected[name].double()).abs().max().item() for name in found)


class Losing:
    """Site 2 is lost at one stage of the protocol; what all send is kept."""

    def __init__(self, stage: str = "") -> None:
        self.stage = stage
        self.sent: list[RecordDict] = []
        self.answered: dict[int, int] = {}

    def __call__(self, partition: int, reply: Message) -> Message | None:
        """Looks on, and drops."""
        if reply.metadata.message_type != TRAIN:
            return reply
        number = self.answered.get(partition, 0)
        self.answered[partition] = number + 1
        if self.stage and partition == 2 and number >= Stage.all().index(self.stage):
            return None
        self.sent.append(reply.content)
        return reply


def test_the_mean_is_that_of_the_sites_networks_to_the_quantisation(tmp_path: Path) -> None:
    store = play_in_process(secure_settings(tmp_path), N_SITES)
    (record,) = read_rounds(store)
    assert len(record.weights) == N_SITES
    assert record.merged is not None
    # 2^22 steps between -8 and 8, once for each site.
    assert greatest_error(store) < 5 * N_SITES * 16 / 2**22


@pytest.mark.parametrize("stage", [Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS])
def test_a_site_that_is_lost_is_left_out_and_the_others_mean_is_read(tmp_path: Path, stage: str) -> None:
    store = play_in_process(secure_settings(tmp_path), N_SITES, Losing(stage))
    (record,) = read_rounds(store)
    assert sorted(record.weights) == ["site-4", "site-5", "site-eu", "site-us"]
    assert greatest_error(store) < 5 * N_SITES * 16 / 2**22


def test_too_few_sites_leave_the_model_unchanged(tmp_path: Path) -> None:
    def only_two(partition: int, reply: Message) -> Message | None:
        return None if partition > 1 and reply.metadata.message_type == TRAIN else reply

    (record,) = read_rounds(play_in_process(secure_settings(tmp_path), N_SITES, only_two))
    assert record.outcome == "void"


def test_the_server_never_sees_an_unmasked_network(tmp_path: Path) -> None:
    wire = Losing()
    store = play_in_process(secure_settings(tmp_path), N_SITES, wire)
    assert all(not record for content in wire.sent for record in content.array_records.values())
    masked = [vector for content in wire.sent if (vector := masked_weights(content)) is not None]
    assert len(masked) == N_SITES
    # Masks are uniform, so that no two sites' go together; unmasked, those of a shared start are nearly the same.
    assert all(abs(float(np.corrcoef(masked[0], other)[0, 1])) < 0.05 for other in masked[1:])
    assert expected_mean(store).keys() == store.network(1).keys()


def masked_weights(content: RecordDict) -> np.ndarray | None:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    """The first tensor that a site sent, masked; None at the other stages."""
    record = content.config_records[RECORD_KEY_CONFIGS]
    if Key.MASKED_PARAMETERS not in record:
        return None
    vectors = cast(list[bytes], record[Key.MASKED_PARAMETERS])
    return bytes_to_ndarray(vectors[1]).flatten().astype(float)


def test_a_site_answers_nothing_that_is_not_masked(tmp_path: Path) -> None:
    settings = secure_settings(tmp_path)
    arrays = to_arrays(play_in_process(quick_settings(tmp_path / "other")).network(1))
    grid = InProcessGrid(app, settings, 1)
    (reply,) = grid.send_and_receive([Message(RecordDict({ARRAYS: arrays}), FIRST_NODE, TRAIN)])
    assert reply.error.reason == "OperatorError: see the site's own log"


def test_integers_are_those_that_were_sent(tmp_path: Path) -> None:
    settings = secure_settings(tmp_path, model="resnet20", depth=8, width=4)
    network = play_in_process(settings, N_SITES).network(1)
    assert network["bn1.num_batches_tracked"] == 0
    assert network["bn1.running_var"].isfinite().all()


def test_rounds_go_on(tmp_path: Path) -> None:
    tamper: Tamper = honest
    rounds = read_rounds(play_in_process(secure_settings(tmp_path, rounds=3), N_SITES, tamper))
    assert [record.outcome for record in rounds] == ["merged"] * 3
    assert rounds[2].merged is not None
    assert rounds[0].merged is not None
    assert rounds[2].merged.loss < rounds[0].merged.loss
    assert torch.tensor([record.weights["site-us"] for record in rounds]).unique().numel() == 1
