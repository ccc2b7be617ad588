"""Sites that align themselves, on their own data: what crosses the wire, and what the merge gains."""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from torch import nn

import strategies.matching
from alignment import Matching, match_weights, permute
from client.app import app
from client.own import load_own
from client.site import Site
from client.sources import Samples
from server.app import play
from server.records import RoundRecord
from server.resume import begin
from server.run import VoidError
from server.store import RunStore
from server.summary import read_rounds
from strategies import FedRebasin
from strategies.checkpoints import CheckpointError
from strategies.errors import OperatorError
from strategies.protocol import (
    ALIGN,
    ARRAYS,
    CLASS_COUNTS,
    DESCRIBE,
    MATCHING,
    METRICS,
    N_EXAMPLES,
    NETWORK,
    PERMUTATION,
    TRAIN,
    to_state,
)
from strategies.settings import Settings
from strategies.tensor_files import write_tensors
from tests.attacks.federation import fail
from tests.inprocess import FIRST_NODE, InProcessGrid, Played, Tamper, play_in_process, play_in_vain, quick_settings
from tests.replies import ready, small_spec, small_state, train_reply

RESNET = {"model": "resnet20", "depth": 8, "width": 8, "learning_rate": 0.1, "epochs": 6}


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record


class Wire:
    """Remembers which records each site sent in answer to what."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, set[str]]] = []

    def __call__(self, partition: int, reply: Message) -> Message:
        """Looks on."""
        self.sent.append((reply.metadata.message_type, partition, set(reply.content)))
        return reply

    def of(self, message_type: str) -> dict[int, set[str]]:
        """What each site answered to such a message."""
        return {partition: records for kind, partition, records in self.sent if kind == message_type}


@pytest.mark.parametrize("align_at", ["site", "both"])
def test_independent_starts_take_two_trips_and_one_training(tmp_path: Path, align_at: str) -> None:
    wire = Wire()
    record = one_round(play_in_process(quick_settings(tmp_path, align_at=align_at), 3, wire))
    assert Counter(kind for kind, _, _ in wire.sent)[TRAIN] == 3
    assert set(map(frozenset, wire.of(TRAIN).values())) == {frozenset({METRICS})}
    assert len(wire.of(NETWORK)) == 1
    assert wire.of(ALIGN).keys() == {0, 1, 2} - wire.of(NETWORK).keys()
    proposal = {PERMUTATION} if align_at == "both" else set[str]()
    assert all(records == {ARRAYS, MATCHING, METRICS} | proposal for records in wire.of(ALIGN).values())
    assert record.reference == max(sorted(record.weights), key=lambda site: record.weights[site])
    assert len(record.matchings) == 2
    assert all(max(matching.moved.values()) > 0.5 for matching in record.matchings.values())


@pytest.mark.parametrize("reference", ["largest", "medoid", "site-3"])
@pytest.mark.parametrize("align_at", ["site", "both"])
def test_nobody_trains_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, align_at: str, reference: str) -> None:
    trained: list[int] = []

    def counting(model: nn.Module, samples: Samples, *others: object) -> float:
        trained.append(len(samples))
        return 0.0

    monkeypatch.setattr("client.app.train", counting)
    settings = quick_settings(tmp_path, align_at=align_at, reference=reference, probe_points=0)
    record = one_round(play_in_process(settings, 3))
    assert sorted(trained) == sorted(record.weights.values())


def test_later_rounds_take_one_trip(tmp_path: Path) -> None:
    wire = Wire()
    play_in_process(quick_settings(tmp_path, align_at="site", rounds=2), tamper=wire)
    kinds = Counter(kind for kind, _, _ in wire.sent)
    assert kinds[TRAIN] == 4
    assert kinds[ALIGN] == kinds[NETWORK] == 1
    assert wire.of(TRAIN)[0] == {ARRAYS, MATCHING, METRICS}


def test_site_and_both_merge_alike(played: Played) -> None:
    one, other = (played(align_at=at, **RESNET).network(1) for at in ("site", "both"))
    assert all(one[name].allclose(other[name], atol=1e-5) for name in one if "num_batches" not in name)


def test_aligning_at_the_site_merges_better_than_by_weights(played: Played) -> None:
    """On a narrow BatchNorm ResNet; the shares of each lever are in docs/merge-quality.md."""
    losses = {at: one_round(played(align_at=at, **RESNET)).merged for at in ("server", "site")}
    assert losses["site"] is not None
    assert losses["server"] is not None
    assert losses["site"].loss < losses["server"].loss


@pytest.mark.parametrize("matching", ["activations", "then-weights", "joint"])
def test_each_way_of_matching_lowers_the_barrier(played: Played, matching: str) -> None:
    barrier = one_round(played(align_at="both", site_matching=matching, **RESNET)).barrier
    assert barrier is not None
    assert barrier.naive is not None
    assert barrier.aligned < 0.8 * barrier.naive


def objective(settings: Settings) -> float:
    """How well the weights of two sites match, as a run of one round has aligned them."""
    (matching,) = one_round(play_in_process(settings)).matchings.values()
    return matching.objective


def test_the_more_a_matching_asks_of_weights_the_better_they_match(tmp_path: Path) -> None:
    quick = RESNET | {"align_at": "both", "epochs": 2, "probe_points": 0}
    activations, joint, then_weights = (
        objective(quick_settings(tmp_path / matching, site_matching=matching, **quick))
        for matching in ("activations", "joint", "then-weights")
    )
    assert activations < joint < then_weights


def test_more_restarts_find_a_better_matching(tmp_path: Path) -> None:
    quick: dict[str, object] = {"align_at": "server", "epochs": 1, "probe_points": 0}
    one, many = (objective(quick_settings(tmp_path / str(most), restarts=most, **quick)) for most in (1, 20))
    assert one < many


def test_restarts_are_made_of_networks_that_start_apart_and_of_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are aligned to the network that was sent, which somebody trained."""
    made: list[int] = []

    def watched(*args: Any) -> Matching:
        made.append(args[-1])
        return match_weights(*args)

    monkeypatch.setattr(strategies.matching, "match_weights", watched)
    quick: dict[str, object] = {"align_at": "server", "epochs": 1, "probe_points": 0, "width": 8, "restarts": 3}
    initial = play_in_process(quick_settings(tmp_path / "initial", **quick)).checkpoint_path(1)
    for start, reference, expected in (("seed", "global", 3), ("seed", "largest", 3), ("shared", "largest", 1)):
        made.clear()
        named = quick | {"start": start, "reference": reference, "initial": str(initial)}
        play_in_process(quick_settings(tmp_path / f"{start}-{reference}", **named))
        assert set(made) == {expected}


@pytest.mark.parametrize("setting", [{"matching_weight": 5.0}, {"matching_samples": 8}], ids=["weight", "samples"])
def test_a_setting_of_the_matching_changes_what_is_found(tmp_path: Path, setting: dict[str, object]) -> None:
    networks: list[dict[str, torch.Tensor]] = []
    for name, changes in (("usual", {}), ("changed", setting)):
        run = quick_settings(tmp_path / name, align_at="site", epochs=1, probe_points=0, **changes)
        networks.append(play_in_process(run).network(1))
    assert not all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


def test_a_refined_proposal_has_no_lower_objective(tmp_path: Path) -> None:
    proposed, refined = (
        objective(quick_settings(tmp_path / str(refine), align_at="both", refine=refine)) for refine in (False, True)
    )
    assert refined > proposed


def test_a_site_that_aligns_itself_keeps_to_itself_how_its_network_was(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, align_at="site")))
    assert record.barrier is not None
    assert record.barrier.naive is None


def test_where_baselines_are_measured_the_naive_mean_is_that_of_the_networks_as_they_were(tmp_path: Path) -> None:
    settings = {at: quick_settings(tmp_path / at, align_at=at, baselines=True) for at in ("server", "site")}
    by = {at: one_round(play_in_process(each)) for at, each in settings.items()}
    assert by["site"].baselines["naive"].loss == pytest.approx(by["server"].baselines["naive"].loss, rel=1e-4)
    assert by["site"].barrier is not None
    assert by["site"].barrier.naive is not None


def test_a_reference_that_does_not_answer_makes_way_for_the_next(tmp_path: Path) -> None:
    asked: list[int] = []

    def tamper(partition: int, reply: Message) -> Message | None:
        if reply.metadata.message_type != NETWORK:
            return reply
        asked.append(partition)
        return None if len(asked) == 1 else reply

    settings = quick_settings(tmp_path, align_at="site", round_deadline_seconds=0.3)
    record = one_round(play_in_process(settings, 3, tamper))
    assert len(asked) == 2
    assert len(record.weights) == 2
    assert [refused.reason for refused in record.refused] == ["LATE"]
    assert record.outcome == "merged"


def test_a_reference_that_is_refused_makes_way_for_the_next(tmp_path: Path) -> None:
    """What can be judged of it alone is, before the others align to it."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition == 0 and reply.metadata.message_type == NETWORK:
            reply.content.metric_records[METRICS][CLASS_COUNTS] = [1] * 10
        return reply

    settings = quick_settings(tmp_path, align_at="site", reference="largest", baselines=True, epochs=1)
    record = one_round(play_in_process(settings, 3, larger(tamper)))
    assert [(refused.site, refused.reason) for refused in record.refused] == [("site-us", "COUNTS")]
    assert record.reference != "site-us"
    assert len(record.weights) == 2


@pytest.mark.parametrize("resumed", [False, True], ids=["in one go", "resumed"])
def test_a_reference_that_only_the_others_speak_against_is_not_chosen_again(tmp_path: Path, resumed: bool) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        if partition == 0 and reply.metadata.message_type == NETWORK:
            arrays = reply.content.array_records[ARRAYS]
            for name, array in arrays.items():
                arrays[name] = Array(array.numpy() * np.float32(1e6))
        return reply

    if resumed:
        shorter = quick_settings(tmp_path, align_at="site", reference="largest", rounds=1, epochs=1)
        play_in_vain(shorter, 3, larger(tamper))
    settings = quick_settings(tmp_path, align_at="site", reference="largest", rounds=2, epochs=1)
    void, merged = read_rounds(play_in_process(settings, 3, larger(tamper)))
    assert (void.outcome, merged.outcome) == ("void", "merged")
    assert [(refused.site, refused.reason) for refused in void.refused] == [("site-us", "NORM")]
    assert merged.reference != "site-us"


def larger(tamper: Tamper) -> Tamper:
    """The first site says that it has most samples, before ``tamper`` sees its reply."""

    def both(partition: int, reply: Message) -> Message | None:
        metrics = reply.content.metric_records.get(METRICS) if reply.has_content() else None
        if partition == 0 and metrics is not None and N_EXAMPLES in metrics:
            metrics[N_EXAMPLES] = 10_000
        return tamper(partition, reply)

    return both


@pytest.mark.parametrize("align_at", ["server", "site"])
def test_the_medoid_of_three_can_be_the_reference(tmp_path: Path, align_at: str) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, align_at=align_at, reference="medoid"), 3))
    assert record.reference in record.weights
    assert len(record.matchings) == 2


def test_the_medoid_is_the_network_in_the_middle() -> None:
    middle, step = small_state(1), small_state(2)
    states = [apart(middle, step, 0.2), middle, apart(middle, step, -0.2)]
    strategy = ready(FedRebasin(spec=small_spec(), reference="medoid"), small_state(0))
    # Permuted, so that only aligned networks lie as near as they are.
    mixed = [permute(small_spec(), {"P": torch.randperm(6)}, state) for state in states]
    strategy.aggregate_train(1, [train_reply(node, state) for node, state in enumerate(mixed, 1)])
    assert strategy.merged is not None
    assert strategy.merged.reference == "b"


def apart(state: dict[str, torch.Tensor], step: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    return {name: t + share * step[name] if t.is_floating_point() else t for name, t in state.items()}


def test_a_given_network_is_aligned_to_in_one_trip(tmp_path: Path) -> None:
    first = play_in_process(quick_settings(tmp_path / "first"))
    path = write_tensors(tmp_path / "given.safetensors", first.network(1))
    wire = Wire()
    settings = quick_settings(tmp_path / "second", align_at="site", reference=str(path), seed=1)
    record = one_round(play_in_process(settings, tamper=wire))
    assert record.reference == "given"
    assert not wire.of(ALIGN)
    assert all(max(matching.moved.values()) > 0.5 for matching in record.matchings.values())


@pytest.mark.parametrize("setting", ["reference", "initial"])
def test_a_file_of_another_network_ends_the_run_before_anybody_trains(tmp_path: Path, setting: str) -> None:
    path = write_tensors(tmp_path / "given.safetensors", {"layers.0.0.weight": torch.ones(2)})
    told = rf"setting '{setting}': .*given.safetensors: tensor 'fc.bias' is missing, the run's network has \(10,\)"
    with pytest.raises(CheckpointError, match=told):
        play_in_process(quick_settings(tmp_path, **{setting: str(path)}))
    assert not RunStore(tmp_path / "test").rounds_path.exists()


def spoil(record: ArrayRecord) -> None:
    name = next(iter(record))
    record[name] = Array(torch.zeros(record[name].shape, dtype=torch.int64).numpy())


def too_long(record: ArrayRecord) -> None:
    name = next(iter(record))
    record[name] = Array(torch.arange(record[name].shape[0] + 1).numpy())


def unknown_group(record: ArrayRecord) -> None:
    record["nowhere"] = Array(torch.arange(3).numpy())


def floats(record: ArrayRecord) -> None:
    name = next(iter(record))
    record[name] = Array(record[name].numpy().astype("float32"))


@pytest.mark.parametrize("attack", [spoil, too_long, unknown_group, floats])
def test_a_proposal_that_is_no_permutation_is_refused(tmp_path: Path, attack) -> None:  # pyright: ignore
    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == ALIGN and PERMUTATION in reply.content:
            attack(reply.content.array_records[PERMUTATION])
        return reply

    record = one_round(play_in_process(quick_settings(tmp_path, align_at="both", min_sites=1), 2, tamper))
    assert [refused.reason for refused in record.refused] == ["PERMUTATION"]
    assert list(record.weights) == [record.reference]


def test_flowers_own_strategies_merge_the_aligned_replies(tmp_path: Path) -> None:
    """`align-at = site` leaves the server an ordinary mean."""
    settings = quick_settings(tmp_path, align_at="site")
    replies: list[Message] = []

    def keep(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type in (NETWORK, ALIGN):
            replies.append(reply)
        return reply

    store = play_in_process(settings, 5, keep)
    ours = store.network(1)
    sent = [to_state(reply.content.array_records[ARRAYS]) for reply in replies]
    found = {type(s).__name__: merged_by(s, replies) for s in (FedAvg(), FedMedian(), FedTrimmedAvg(beta=0.2))}
    ranked = {name: torch.stack([state[name] for state in sent]).sort(0).values for name in ours}
    expected = {
        # Flower's FedAvg sums in the order in which replies come; ours in that of names, which here is another.
        "FedAvg": ours,
        "FedMedian": {name: each[2] for name, each in ranked.items()},
        "FedTrimmedAvg": {name: each[1:-1].mean(0) for name, each in ranked.items()},
    }
    raw = mean([own_network(settings, partition) for partition in range(5)])
    for name, merged in found.items():
        assert all(merged[key].allclose(expected[name][key], atol=1e-6) for key in ours)
        assert distance(merged, ours) < 0.5 * distance(raw, ours)


def merged_by(strategy: FedAvg, replies: Sequence[Message]) -> dict[str, torch.Tensor]:
    # It empties the records that it has read.
    arrays, _ = strategy.aggregate_train(1, copy.deepcopy(list(replies)))
    assert arrays
    return to_state(arrays)


def own_network(settings: Settings, partition: int) -> dict[str, torch.Tensor]:
    name = ("site-us", "site-eu", "site-3", "site-4", "site-5")[partition]
    state = load_own(Site(name, Path(settings.runs_dir) / "test" / "sites" / name, "digits"))
    assert state is not None
    return state


def mean(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((one[name] - other[name]).square().sum().item() for name in one)


@pytest.mark.parametrize("align_at", ["server", "site", "both"])
def test_a_reference_that_is_no_site_of_the_run_is_told_before_anybody_trains(tmp_path: Path, align_at: str) -> None:
    asked: list[str] = []

    def watch(partition: int, reply: Message) -> Message:
        asked.append(reply.metadata.message_type)
        return reply

    settings = quick_settings(tmp_path, align_at=align_at, reference="site-mars")
    with pytest.raises(OperatorError, match="'site-mars': there is no site of that name; there are: site-eu, site-us"):
        play_in_process(settings, tamper=watch)
    assert set(asked) == {DESCRIBE}


@pytest.mark.parametrize("align_at", ["site", "both"])
def test_a_site_that_is_named_is_the_reference_and_has_no_deputy(tmp_path: Path, align_at: str) -> None:
    settings = quick_settings(tmp_path / "there", align_at=align_at, reference="site-us", epochs=1, width=16)
    assert one_round(play_in_process(settings)).reference == "site-us"

    def silent(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == NETWORK:
            fail(reply)
        return reply

    settings = quick_settings(tmp_path / "silent", align_at=align_at, reference="site-us", epochs=1, width=16)
    record = one_round(play_in_vain(settings, 3, tamper=silent))
    assert [verdict.site for verdict in record.refused] == ["site-us"]


class Later(InProcessGrid):
    """Registered sites, of which the last is there when it has been looked for some times."""

    looks = 0

    def get_node_ids(self) -> Iterable[int]:
        self.looks += 1
        return [FIRST_NODE + site for site in range(self.n_sites if self.looks > 3 else self.n_sites - 1)]

    def get_nodes(self) -> Iterable[NodeInfo]:
        names = ("site-us", "site-eu", "site-3")
        return [NodeInfo(node_id=node_id, name=names[node_id - FIRST_NODE]) for node_id in self.get_node_ids()]


def test_a_site_that_is_named_is_waited_for(tmp_path: Path) -> None:
    quick: dict[str, object] = {"epochs": 1, "width": 16, "probe_points": 0, "join_deadline_seconds": 60.0}
    settings = quick_settings(tmp_path, align_at="both", reference="site-3", **quick)
    store = RunStore(tmp_path / "test")
    with store.held():
        play(Later(app, settings, 3), settings, store, begin(store, settings))
    assert one_round(store).reference == "site-3"


@pytest.mark.parametrize("align_at", ["server", "site"])
def test_a_reference_that_is_gone_before_the_first_merge_makes_a_round_void(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, align_at: str
) -> None:
    """And the run goes on, should it come back."""
    quick = {"epochs": 1, "width": 16, "probe_points": 0, "join_deadline_seconds": 0.1}
    settings = quick_settings(tmp_path, align_at=align_at, reference="site-4", rounds=2, max_void_rounds=1, **quick)
    grid = InProcessGrid(app, settings, 4)

    def leave(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN and partition == 3:
            grid.n_sites = 3
            fail(reply)
        return reply

    grid.tamper = leave
    store = RunStore(tmp_path / "test")
    with store.held(), pytest.raises(VoidError, match="2 rounds in a row were void"):
        play(grid, settings, store, begin(store, settings))
    assert [record.outcome for record in read_rounds(store)] == ["void", "void"]
    assert "round 2 is void: reference 'site-4': there is no site of that name" in caplog.text


def test_variants_are_measured_without_baselines(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, align_at="site", variants=True, epochs=1, width=16)
    assert "naive.recalibrated" in one_round(play_in_process(settings)).baselines
