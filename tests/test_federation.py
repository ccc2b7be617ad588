"""A whole federation, in this process."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from torch import Tensor

from client.app import app as client_app
from client.own import load_own
from client.site import Site
from server.app import main
from server.given import first_state
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds, summarise
from strategies.checkpoints import CheckpointError
from strategies.errors import SettingsError
from strategies.mean import exact_mean
from strategies.protocol import ARRAYS, METRICS, N_EXAMPLES, TRAIN, State
from strategies.settings import Settings
from strategies.tensor_files import write_tensors
from tests.inprocess import InProcessGrid, Tamper, play_in_process, quick_settings


def test_five_rounds_of_four_sites_are_played_and_kept(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rounds=5, min_sites=4)
    store = play_in_process(settings, n_sites=4)
    rounds = read_rounds(store)
    assert [record.round for record in rounds] == [1, 2, 3, 4, 5]
    assert list(rounds[0].weights) == ["site-3", "site-4", "site-eu", "site-us"]
    assert all(store.checkpoint_path(number).is_file() for number in range(1, 6))
    assert accuracy(rounds[4]) > 0.6


def test_two_runs_with_one_seed_leave_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        play_in_process(quick_settings(tmp_path / name, model="resnet20", depth=8, width=4, rounds=2, epochs=1))
        for name in ("first", "second")
    )
    for number in (1, 2):
        assert first.checkpoint_path(number).read_bytes() == second.checkpoint_path(number).read_bytes()


@pytest.mark.parametrize("align_at", ["server", "none"])
def test_running_variances_of_any_size_are_no_large_update(tmp_path: Path, align_at: str) -> None:
    """A site whose inputs are larger is no outlier, with alignment or without."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition == 2 and reply.metadata.message_type == TRAIN:
            arrays = reply.content.array_records[ARRAYS]
            arrays["bn1.running_var"] = Array(1e4 * arrays["bn1.running_var"].numpy())
        return reply

    changes = {"model": "resnet20", "depth": 8, "width": 4, "epochs": 1, "align_at": align_at, "probe_points": 0}
    record = one_round(play_in_process(quick_settings(tmp_path, **changes), 3, tamper))
    assert not record.refused
    assert len(record.weights) == 3


def test_two_runs_with_two_seeds_differ(tmp_path: Path) -> None:
    first, second = (play_in_process(quick_settings(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert first.checkpoint_path(1).read_bytes() != second.checkpoint_path(1).read_bytes()


def test_sites_that_start_apart_are_aligned_to_the_largest(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path)))
    assert record.reference == max(sorted(record.weights), key=lambda site: record.weights[site])
    (matching,) = record.matchings.values()
    assert matching.gain > 0
    assert max(matching.moved.values()) > 0.5


def test_sites_that_start_together_and_train_little_are_not_moved(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, start="shared", epochs=1, learning_rate=0.001)))
    assert record.reference == "global"
    assert all(share == 0 for matching in record.matchings.values() for share in matching.moved.values())


def test_without_alignment_it_is_fedavg(tmp_path: Path) -> None:
    none, server = (play_in_process(quick_settings(tmp_path / at, align_at=at)) for at in ("none", "server"))
    assert one_round(none).guard["site-us"].decision == "unmoved"
    raw = [load_own(Site(site, none.directory / "sites" / site, "digits")) for site in one_round(none).weights]
    weights = list(one_round(none).weights.values())
    assert same(none.network(1), exact_mean([state for state in raw if state], weights, none.network(1)))
    assert not same_network(none, server)


def test_a_run_can_start_from_a_file(tmp_path: Path) -> None:
    first = play_in_process(quick_settings(tmp_path / "first"))
    path = str(first.checkpoint_path(1))
    second = play_in_process(quick_settings(tmp_path / "second", initial=path, start="shared", epochs=0))
    assert same(first.network(1), second.network(1))


def undefined(tensor: Tensor) -> Tensor:
    return tensor * math.nan


@pytest.mark.parametrize(("change", "told"), [(Tensor.half, "is torch.float16"), (undefined, "has NaN or infinite")])
@pytest.mark.parametrize("setting", ["initial", "reference"])
def test_a_file_of_other_numbers_is_refused_before_anybody_trains(
    tmp_path: Path, setting: str, change: Callable[[Tensor], Tensor], told: str
) -> None:
    state = play_in_process(quick_settings(tmp_path / "first")).network(1)
    path = write_tensors(tmp_path / "other.safetensors", {**state, "fc.bias": change(state["fc.bias"])})
    with pytest.raises(CheckpointError, match=f"setting '{setting}': .*tensor 'fc.bias' {told}"):
        play_in_process(quick_settings(tmp_path / "second", **{setting: str(path)}))


def test_a_file_of_fp8_is_refused_for_what_is_not_finite_alone(tmp_path: Path) -> None:
    like = {"fc.weight": torch.ones(2, 3).to(torch.float8_e4m3fn)}
    path = write_tensors(tmp_path / "fp8.safetensors", like)
    settings = quick_settings(tmp_path, initial=str(path))
    assert first_state(settings, like).keys() == like.keys()
    write_tensors(path, {name: undefined(tensor.float()).to(tensor.dtype) for name, tensor in like.items()})
    with pytest.raises(CheckpointError, match=r"tensor 'fc\.weight' has NaN or infinite values"):
        first_state(settings, like)


def test_the_record_shows_the_barrier_naive_and_aligned(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, epochs=8, probe_points=5)))
    assert record.barrier is not None
    (paths,) = record.paths.values()
    assert record.barrier.naive is not None
    assert paths.naive is not None
    assert record.barrier.aligned < record.barrier.naive
    assert paths.naive.lambdas == [0, 0.25, 0.5, 0.75, 1]
    # Both paths lead from the reference to the same function.
    assert paths.naive.losses[0] == pytest.approx(paths.aligned.losses[0])
    assert paths.naive.losses[-1] == pytest.approx(paths.aligned.losses[-1], rel=1e-4)


def test_baselines_are_measured_on_the_union_of_held_out_data(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, model="resnet20", depth=8, width=8, learning_rate=0.1, baselines=True)
    record = one_round(play_in_process(settings))
    expected = {"site-us", "site-eu", "site-us.corrected", "site-eu.corrected", "ensemble"}
    expected |= {"naive", "naive.recalibrated", "aligned", "aligned.recalibrated"}
    assert set(record.baselines) == expected
    assert len({score.count for score in record.baselines.values()}) == 1
    assert record.merged == record.baselines["aligned.recalibrated"]
    # Without recalibration a merge of BatchNorm networks is worth little.
    assert record.baselines["aligned.recalibrated"].accuracy > record.baselines["aligned"].accuracy + 0.1


def test_a_network_without_statistics_is_not_measured_with_renewed_ones(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, baselines=True, epochs=1))
    expected = {"site-us", "site-eu", "site-us.corrected", "site-eu.corrected", "ensemble", "naive", "aligned"}
    assert set(one_round(store).baselines) == expected
    assert summarise(store).merge == "aligned"


@pytest.mark.parametrize("split", ["disjoint", "iid", "dirichlet"])
def test_every_split_gives_a_merge_and_its_baselines(tmp_path: Path, split: str) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, split=split, baselines=True, epochs=1), n_sites=3))
    assert len(record.weights) == 3
    assert all(0 <= score.accuracy <= 1 and score.loss > 0 for score in record.baselines.values())


def test_the_record_counts_the_bytes_of_each_site(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, start="shared", probe_points=0))
    network = sum(tensor.numel() * tensor.element_size() for tensor in store.network(1).values())
    for traffic in one_round(store).traffic.values():
        # Out: to train from, and the merge to evaluate. In: what was trained.
        assert 2 * network < traffic.sent < 2.2 * network
        assert network < traffic.received < 1.1 * network


def nan_arrays(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    name = next(iter(arrays))
    arrays[name] = Array(np.full_like(arrays[name].numpy(), np.nan))


def wrong_shape(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    name = next(iter(arrays))
    arrays[name] = Array(arrays[name].numpy()[:1])


def missing_key(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    reply.content[ARRAYS] = ArrayRecord(dict(list(arrays.items())[1:]))


def wrong_dtype(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    name = next(iter(arrays))
    arrays[name] = Array(arrays[name].numpy().astype(np.complex64))


def no_weight(reply: Message) -> None:
    reply.content.metric_records[METRICS][N_EXAMPLES] = float("nan")


def no_arrays(reply: Message) -> None:
    del reply.content[ARRAYS]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (nan_arrays, "NOT_FINITE"),
        (wrong_shape, "SHAPE"),
        (missing_key, "KEYS"),
        (wrong_dtype, "DTYPE"),
        (no_weight, "WEIGHT"),
        (no_arrays, "MALFORMED"),
    ],
)
def test_a_malformed_reply_costs_its_site_the_turn_only(tmp_path: Path, spoil, reason: str) -> None:  # pyright: ignore
    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == TRAIN:
            spoil(reply)
        return reply

    store = play_in_process(quick_settings(tmp_path / "spoilt"), n_sites=3, tamper=tamper)
    record = one_round(store)
    assert [(refused.site, refused.reason) for refused in record.refused] == [("site-eu", reason)]
    assert sorted(record.weights) == ["site-3", "site-us"]
    assert same_network(store, play_in_process(quick_settings(tmp_path / "silent"), 3, silent_or_failed(None)))


def test_an_error_reply_costs_its_site_the_turn_only(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path), 3, silent_or_failed(Error(2, "out of memory"))))
    assert [refused.reason for refused in record.refused] == ["CLIENT_ERROR"]
    assert record.outcome == "merged"


def test_a_round_without_enough_replies_leaves_the_model_unchanged(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rounds=2, round_deadline_seconds=0.2)

    def tamper(partition: int, reply: Message) -> Message | None:
        late = partition == 1 and reply.metadata.message_type == TRAIN
        return None if late and reply.metadata.group_id == "2" else reply

    store = play_in_process(settings, tamper=tamper)
    assert [record.outcome for record in read_rounds(store)] == ["merged", "void"]
    assert store.checkpoint_path(1).read_bytes() == store.checkpoint_path(2).read_bytes()


def silent_or_failed(error: Error | None) -> Tamper:
    """Site 1 stays silent when it should train, or answers with ``error``."""

    def tamper(partition: int, reply: Message) -> Message | None:
        if partition != 1 or reply.metadata.message_type != TRAIN:
            return reply
        answer = Message(error or Error(5, "gone"), reply_to=reply)
        answer.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        return answer

    return tamper


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record


def accuracy(record: RoundRecord) -> float:
    assert record.merged is not None
    return record.merged.accuracy


def same(left: State, right: State) -> bool:
    return all(torch.allclose(left[name], right[name], atol=1e-6) for name in left)


def same_network(left: RunStore, right: RunStore) -> bool:
    ours, theirs = left.network(1), right.network(1)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_wrong_setting_leaves_its_reason_in_the_store(tmp_path: Path) -> None:
    config = {**Settings().model_dump(by_alias=True), "run": "mine", "runs-dir": str(tmp_path), "epochs": "many"}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    with pytest.raises(SettingsError):
        main(InProcessGrid(client_app, Settings(), 1), context)
    status = RunStore(tmp_path / "mine").read_json("status.json")
    assert status is not None
    assert (status["phase"], status["exit-code"]) == ("failed", 11)
    assert status["reason"] == "setting 'epochs': expected an integer, got 'many' (str)"
