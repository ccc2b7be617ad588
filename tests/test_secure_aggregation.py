"""Flower's SecAgg+ around aligned networks: the server reads their mean, and none of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from torch import Tensor

from client.app import app
from client.own import load_own
from client.site import Site
from models import Architecture, build
from server.secure import threshold
from server.store import RunStore
from server.summary import read_rounds
from strategies.errors import OperatorError
from strategies.masked import MASKED, masked_vector, pack_masked
from strategies.mean import exact_mean
from strategies.protocol import ARRAYS, DESCRIPTION, RECALIBRATE, TRAIN, TRAIN_SAMPLES, to_arrays
from strategies.quantization import modulus, most_sites, quantization_steps
from strategies.settings import Settings
from strategies.tensor_files import write_tensors
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, honest, play_in_process, play_in_vain, quick_settings

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


def test_networks_of_own_starts_are_aligned_before_they_are_masked(tmp_path: Path) -> None:
    reference = tmp_path / "reference.safetensors"
    settings = secure_settings(tmp_path / "secure", start="seed", reference=str(reference))
    write_tensors(reference, build(Architecture(*settings.network), 5).state_dict())
    secure = play_in_process(settings, N_SITES)
    open_settings = {**SECURE, "start": "seed", "reference": str(reference), "privacy": "none"}
    plain = play_in_process(quick_settings(tmp_path / "plain", **open_settings), N_SITES)
    found, expected = secure.network(1), plain.network(1)
    step = 16 / 2**22
    assert max(float((found[name] - expected[name]).abs().max()) for name in found) < 5 * N_SITES * step
    # Of the networks as they were trained it is not.
    assert greatest_error(secure) > 0.01
    assert [[record.reference for record in read_rounds(store)] for store in (secure, plain)] == [["given"]] * 2


@pytest.mark.parametrize("stage", [Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS])
def test_a_site_that_is_lost_is_left_out_and_the_others_mean_is_read(tmp_path: Path, stage: str) -> None:
    store = play_in_process(secure_settings(tmp_path), N_SITES, Losing(stage))
    (record,) = read_rounds(store)
    assert sorted(record.weights) == ["site-4", "site-5", "site-eu", "site-us"]
    assert greatest_error(store) < 5 * N_SITES * 16 / 2**22


def test_too_few_sites_leave_the_model_unchanged(tmp_path: Path) -> None:
    def only_two(partition: int, reply: Message) -> Message | None:
        return None if partition > 1 and reply.metadata.message_type == TRAIN else reply

    (record,) = read_rounds(play_in_vain(secure_settings(tmp_path), N_SITES, only_two))
    assert record.outcome == "void"
    # Whoever reads the record looks for the reason there, and not in a log.
    assert record.notes == ["void: no mean came of secure aggregation; the network before it stays"]


@pytest.mark.parametrize(("asked", "outcome"), [(0.7, "merged"), (0.9, "void")])
def test_as_many_sites_must_stay_as_the_run_asks_for(tmp_path: Path, asked: float, outcome: str) -> None:
    play = play_in_process if outcome == "merged" else play_in_vain
    settings = secure_settings(tmp_path, secure_threshold=asked)
    (record,) = read_rounds(play(settings, N_SITES, Losing(Stage.COLLECT_MASKED_VECTORS)))
    assert record.outcome == outcome


def test_the_server_sees_masked_networks_alone(tmp_path: Path) -> None:
    """Uniform on 32 bits; and no two sites' go together, where unmasked those of a shared start are nearly the same."""
    wire = Losing()
    store = play_in_process(secure_settings(tmp_path), N_SITES, wire)
    records = [(name, each) for content in wire.sent for name, each in content.array_records.items() if len(each)]
    assert [name for name, _ in records] == [MASKED] * N_SITES
    assert all(Key.MASKED_PARAMETERS not in content.config_records[RECORD_KEY_CONFIGS] for content in wire.sent)
    masked = [[array.numpy() for array in each.values()] for _, each in records]
    assert {array.dtype for each in masked for array in each} == {np.dtype(np.uint32)}
    flat = [np.concatenate([array.flatten() for array in each]) / 2**32 for each in masked]
    for values in flat:
        shares, _ = np.histogram(values, bins=16, range=(0, 1), density=True)
        assert np.abs(shares - 1).max() < 0.2
    assert all(abs(float(np.corrcoef(flat[0], other)[0, 1])) < 0.05 for other in flat[1:])
    assert expected_mean(store).keys() == store.network(1).keys()


def test_a_masked_network_is_sent_in_pieces_that_a_proxy_lets_through() -> None:
    """As Flower has it, three million numbers are one piece of 24 MB."""
    vector = [np.arange(3_000_000, dtype=np.int64), np.zeros((), np.int64)]
    config = ConfigRecord({Key.MASKED_PARAMETERS: [ndarray_to_bytes(each) for each in vector]})
    packed = pack_masked(Message(RecordDict({RECORD_KEY_CONFIGS: config}), FIRST_NODE, TRAIN))
    pieces = [len(each.deflate()) for each in get_all_nested_objects(packed.content).values()]
    assert max(pieces) <= 5_243_032
    assert sum(pieces) > 12_000_000
    found = masked_vector("site-us", packed, [(3_000_000,), ()])
    assert all(np.array_equal(one, other) for one, other in zip(found, vector, strict=True))


@pytest.mark.parametrize(
    ("n_sites", "share", "min_sites", "expected"),
    [
        (3, 0.51, 3, 3),
        (4, 0.51, 3, 3),
        (5, 0.51, 3, 3),
        (6, 0.51, 3, 4),
        (10, 0.51, 3, 6),
        (10, 0.75, 3, 8),
        (9, 0.6, 8, 8),
    ],
)
def test_the_sum_is_opened_by_more_than_half_of_the_sites(
    tmp_path: Path, n_sites: int, share: float, min_sites: int, expected: int
) -> None:
    """Of four sites Flower would round 51 % to two."""
    assert threshold(n_sites, secure_settings(tmp_path, secure_threshold=share, min_sites=min_sites)) == expected


@pytest.mark.parametrize("n_sites", [3, 4])
def test_the_mean_of_two_networks_is_never_opened(tmp_path: Path, n_sites: int) -> None:
    """All but two are lost once keys are shared: nobody is asked for shares to unmask the two with."""
    answered: dict[int, int] = {}

    def tamper(partition: int, reply: Message) -> Message | None:
        if reply.metadata.message_type != TRAIN:
            return reply
        answered[partition] = answered.get(partition, 0) + 1
        return None if partition > 1 and answered[partition] == 3 else reply

    settings = secure_settings(tmp_path)
    store = play_in_vain(settings, n_sites, tamper)
    (record,) = read_rounds(store)
    assert (record.outcome, record.weights) == ("void", {})
    assert max(answered.values()) == 3
    untouched = build(Architecture(*settings.network), settings.seed).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in store.network(1).items())


@pytest.mark.parametrize(("n_sites", "wanted"), [(2, 2), (4, 2), (5, 2), (8, 4)])
def test_a_site_refuses_a_sum_that_half_of_the_sites_could_open(tmp_path: Path, n_sites: int, wanted: int) -> None:
    def reply(threshold: int) -> Message:
        asked = {
            Key.STAGE: Stage.SETUP,
            Key.SAMPLE_NUMBER: n_sites,
            Key.SHARE_NUMBER: n_sites,
            Key.THRESHOLD: threshold,
        }
        rest = {Key.CLIPPING_RANGE: 8.0, Key.TARGET_RANGE: 2**22, Key.MOD_RANGE: 2**32, Key.MAX_WEIGHT: 1.0}
        message = Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({**asked, **rest})}), FIRST_NODE, TRAIN)
        (found,) = InProcessGrid(app, secure_settings(tmp_path), 1).send_and_receive([message])
        return found

    assert reply(wanted).error.reason == "OperatorError: see the site's own log"
    assert not reply(max(3, n_sites // 2 + 1)).has_error()


def test_a_sum_has_room_for_the_greatest_values_of_all_sites_it_is_let_have() -> None:
    assert most_sites == 1023
    assert most_sites * quantization_steps < modulus <= (most_sites + 1) * quantization_steps


def test_more_sites_than_a_sum_has_room_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.secure.most_sites", 3)
    with pytest.raises(OperatorError, match="4 sites joined: secure aggregation adds up at most 3 in 32 bits"):
        play_in_process(secure_settings(tmp_path), 4)


def test_parameters_are_cut_to_the_range_whatever_their_site_weighs(tmp_path: Path) -> None:
    """Flower would cut them once they are weighted: those of a small site at a wider range."""
    store = play_in_process(secure_settings(tmp_path, secure_range=0.05), N_SITES)
    (record,) = read_rounds(store)
    states = [load_own(Site(site, store.directory / "sites" / site, "digits")) for site in record.weights]
    cut = [{name: each.clamp(-0.05, 0.05) for name, each in state.items()} for state in states if state is not None]
    found = store.network(1)
    expected = exact_mean(cut, list(record.weights.values()), found)
    assert len(set(record.weights.values())) > 1
    assert all(float((found[name] - expected[name]).abs().max()) < 1e-5 for name in found)


def test_a_site_answers_nothing_that_is_not_masked(tmp_path: Path) -> None:
    settings = secure_settings(tmp_path)
    arrays = to_arrays(play_in_process(quick_settings(tmp_path / "other")).network(1))
    grid = InProcessGrid(app, settings, 1)
    (reply,) = grid.send_and_receive([Message(RecordDict({ARRAYS: arrays}), FIRST_NODE, TRAIN)])
    assert reply.error.reason == "OperatorError: see the site's own log"


def test_buffers_are_not_in_the_sum(tmp_path: Path) -> None:
    """Counters are those that were sent, running statistics those of recalibration."""
    wire = Losing()
    settings = secure_settings(tmp_path, model="resnet20", depth=8, width=4)
    network = play_in_process(settings, N_SITES, wire).network(1)
    assert network["bn1.num_batches_tracked"] == 0
    assert network["bn1.running_var"].isfinite().all()
    assert not network["bn1.running_mean"].eq(0).any()
    parameters = dict(build(Architecture(*settings.network), 0).named_parameters())
    sent = [content.array_records[MASKED] for content in wire.sent if MASKED in content.array_records]
    assert {len(record) for record in sent} == {1 + len(parameters)}


def test_rounds_go_on(tmp_path: Path) -> None:
    tamper: Tamper = honest
    rounds = read_rounds(play_in_process(secure_settings(tmp_path, rounds=3), N_SITES, tamper))
    assert [record.outcome for record in rounds] == ["merged"] * 3
    assert rounds[2].merged is not None
    assert rounds[0].merged is not None
    assert rounds[2].merged.loss < rounds[0].merged.loss
    assert torch.tensor([record.weights["site-us"] for record in rounds]).unique().numel() == 1


@pytest.mark.parametrize(("told", "outcome"), [(1_000_000, "void"), (10**12, "merged")])
def test_a_great_number_told_when_joining_does_not_drown_the_others(tmp_path: Path, told: int, outcome: str) -> None:
    """All are weighed by the greatest, also where its site is lost; a number that no site has is not heard."""
    lost = Losing(Stage.SHARE_KEYS)

    def tamper(partition: int, reply: Message) -> Message | None:
        if partition == 2 and DESCRIPTION in reply.content.config_records:
            reply.content.config_records[DESCRIPTION][TRAIN_SAMPLES] = told
        return lost(partition, reply)

    play = play_in_process if outcome == "merged" else play_in_vain
    store = play(secure_settings(tmp_path), N_SITES, tamper)
    (record,) = read_rounds(store)
    assert record.outcome == outcome
    if outcome == "merged":
        assert greatest_error(store) < 5 * N_SITES * 16 / 2**22


def test_statistics_without_a_site_of_the_sum_are_told(tmp_path: Path) -> None:
    def tamper(partition: int, reply: Message) -> Message | None:
        return None if partition == 2 and reply.metadata.message_type == RECALIBRATE else reply

    network = {"model": "resnet20", "depth": 8, "width": 4}
    (record,) = read_rounds(play_in_process(secure_settings(tmp_path, **network), N_SITES, tamper))
    assert record.notes == ["statistics are those of the other sites, without an answer of site-3"]
