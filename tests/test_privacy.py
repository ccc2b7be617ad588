"""Differential privacy composes with alignment at the site: on the aligned update, on parameters alone."""

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.differential_privacy import get_norm
from torch import Tensor

from client.aligning import network_spec
from client.app import app
from client.privacy import moved_apart, private
from models import Architecture, build
from server.app import play
from server.resume import Beginning
from server.store import RunStore
from server.summary import read_rounds
from strategies.noise import noise_deviation
from strategies.privacy import learned
from strategies.protocol import (
    ALIGN,
    ARRAYS,
    CANDIDATE_END,
    CONFIG,
    EVALUATE,
    FEATURES,
    GRAM,
    LAMBDAS,
    LAYERS,
    MERGED,
    METRICS,
    N_EXAMPLES,
    NETWORK,
    OUTPUTS,
    OWN,
    PROBE,
    REFERENCE_END,
    REPAIR,
    ROUND,
    START,
    TO_ALIGN,
    TRAIN,
    State,
    config_of,
    to_arrays,
    to_state,
)
from strategies.settings import Settings
from strategies.tensor_files import write_tensors
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, play_in_process, quick_settings

RESNET = {"model": "resnet20", "depth": 8, "width": 4, "learning_rate": 0.1, "epochs": 4}
SHARED = {"start": "shared", "align_at": "site", "probe_points": 0}
KINDS = ("clipping", "local-dp", "secure-aggregation")


class Wire:
    """Keeps the networks that leave the sites, and the one they were sent."""

    def __init__(self) -> None:
        self.left: dict[int, dict[str, Tensor]] = {}

    def __call__(self, partition: int, reply: Message) -> Message:
        """Looks on."""
        if reply.metadata.message_type == TRAIN:
            self.left[partition] = to_state(reply.content.array_records[ARRAYS])
        return reply


def sent_in(tmp_path: Path, **settings: object) -> dict[str, Tensor]:
    wire = Wire()
    play_in_process(quick_settings(tmp_path, **{**RESNET, **SHARED, **settings}), tamper=wire)
    return wire.left[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> State:
    """What a site sends without privacy."""
    return sent_in(tmp_path_factory.mktemp("whole"))


def parameters(state: Mapping[str, Tensor]) -> list[str]:
    """The names of a ResNet's parameters."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return [name for name in state if not name.endswith(buffers)]


def norm(update: Mapping[str, Tensor], base: Mapping[str, Tensor], names: Iterable[str]) -> float:
    return torch.stack([(update[n].double() - base[n].double()).square().sum() for n in names]).sum().sqrt().item()


def start(tmp_path: Path) -> dict[str, Tensor]:
    """What goes out in round 1: a run of no epochs sends it back."""
    return sent_in(tmp_path / "start", epochs=0)


@pytest.mark.parametrize("name", ["mlp", "resnet20", "transformer", "gru"])
def test_what_is_covered_is_every_parameter_and_no_buffer(name: str) -> None:
    architecture = Architecture(name, (1, 8, 8), 10)
    model = build(architecture, 0)
    arrays = to_arrays(model.state_dict())
    assert learned(network_spec(architecture), arrays) == [name for name, _ in model.named_parameters()]


def test_an_update_is_clipped_to_the_norm_and_keeps_its_direction(tmp_path: Path, whole: State) -> None:
    base = start(tmp_path)
    clipped = sent_in(tmp_path / "clipped", privacy="clipping", clipping_norm=2.0)
    names = parameters(base)
    assert norm(whole, base, names) > 2
    assert norm(clipped, base, names) == pytest.approx(2, rel=1e-4)
    share = 2 / norm(whole, base, names)
    assert all(torch.allclose(clipped[n], base[n] + share * (whole[n] - base[n]), atol=1e-5) for n in names)


def test_neither_counters_nor_running_statistics_shrink_an_update(tmp_path: Path, whole: State) -> None:
    """Counters move by 270, statistics by more than the parameters: with either in the norm, these would be scaled."""
    base = start(tmp_path)
    names = parameters(base)
    statistics = [name for name in base if name.endswith(("running_mean", "running_var"))]
    bound = 1.01 * norm(whole, base, names)
    clipped = sent_in(tmp_path / "clipped", privacy="clipping", clipping_norm=bound)
    assert norm(whole, base, [*names, *statistics]) > 1.05 * bound
    assert all(torch.allclose(whole[n], clipped[n], atol=1e-6) for n in names)


@pytest.mark.parametrize("privacy", ["clipping", "local-dp"])
def test_no_buffer_leaves_a_site(tmp_path: Path, privacy: str) -> None:
    """Running statistics are statistics of its samples, counters tell how many they are."""
    base, sent = start(tmp_path), sent_in(tmp_path / "sent", privacy=privacy)
    assert list(sent) == list(base)
    buffers = base.keys() - set(parameters(base))
    assert len(buffers) == 27
    assert all(torch.equal(sent[name], base[name]) for name in buffers)
    assert not any(torch.equal(sent[name], base[name]) for name in parameters(base))


def test_running_statistics_of_the_merge_are_those_of_recalibration(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **RESNET, **SHARED, privacy="clipping", clipping_norm=10.0)
    store = play_in_process(settings)
    network = store.network(1)
    assert not network["bn1.running_mean"].eq(0).any()
    (record,) = read_rounds(store)
    assert record.merged is not None
    assert record.merged.accuracy > 0.5


@pytest.mark.parametrize("privacy", ["clipping", "local-dp"])
def test_a_network_that_did_not_move_is_sent_too(tmp_path: Path, privacy: str) -> None:
    """Flower divides by the norm of the update."""
    sent = sent_in(tmp_path / "sent", epochs=0, privacy=privacy)
    base = start(tmp_path)
    moved = norm(sent, base, parameters(base))
    assert moved < 1e-5 if privacy == "clipping" else moved > 1


@pytest.mark.parametrize("entry", [0.0, 1.0, -3e4])
@pytest.mark.parametrize("bound", [1e-9, 1.0, 1e9])
def test_an_update_of_zero_becomes_one_that_can_be_divided_by(entry: float, bound: float) -> None:
    still = to_arrays({"weight": torch.full((3, 2), entry), "bias": torch.full((2,), entry)})
    moved = to_state(moved_apart(still, still, bound))
    update = [(moved[name] - entry).numpy() for name in moved]
    assert 0 < get_norm(update) < 1e-5 * max(bound, abs(entry))


def test_the_noise_is_that_of_two_updates_twice_the_clipping_norm_apart(tmp_path: Path) -> None:
    settings = {"clipping_norm": 0.25, "dp_epsilon": 0.9, "dp_delta": 1e-3}
    clipped = sent_in(tmp_path / "clipped", privacy="clipping", **settings)
    noisy = sent_in(tmp_path / "noisy", privacy="local-dp", **settings)
    noise = torch.cat([(noisy[n] - clipped[n]).flatten() for n in parameters(clipped)])
    # Dwork and Roth 2014, theorem A.1.
    expected = 2 * 0.25 * math.sqrt(2 * math.log(1.25 / 1e-3)) / 0.9
    assert noise_deviation(quick_settings(tmp_path, **SHARED, privacy="local-dp", **settings)) == pytest.approx(
        expected
    )
    assert noise.std().item() == pytest.approx(expected, rel=0.05)
    assert abs(noise.mean().item()) < 0.05 * expected


def test_no_two_sites_and_no_two_rounds_have_the_same_noise(tmp_path: Path) -> None:
    """The update is clipped to next to nothing, so that the noise is what is left of a reply."""
    sent: list[Tensor] = []

    def keep(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN:
            sent.append(to_state(reply.content.array_records[ARRAYS])["fc.weight"])
        return reply

    settings = quick_settings(tmp_path, **SHARED, privacy="local-dp", clipping_norm=1e-3, rounds=2, epochs=1)
    store = play_in_process(settings, 2, keep)
    before = [untrained(settings)["fc.weight"]] * 2 + [store.network(1)["fc.weight"]] * 2
    noise = torch.stack([(after - old).flatten() for after, old in zip(sent, before, strict=True)])
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.3


def test_what_is_clipped_is_the_aligned_update(tmp_path: Path) -> None:
    """From its own start towards a given reference: aligned, the same network is a smaller step away."""
    reference = play_in_process(quick_settings(tmp_path / "reference", **RESNET)).network(1)
    path = str(write_tensors(tmp_path / "given.safetensors", reference))
    wires: dict[str, Wire] = {}
    for privacy in ("none", "clipping"):
        settings = {**RESNET, "seed": 1, "align_at": "site", "probe_points": 0, "reference": path, "clipping_norm": 3.0}
        wires[privacy] = Wire()
        play_in_process(quick_settings(tmp_path / privacy, privacy=privacy, **settings), tamper=wires[privacy])
    aligned, clipped = wires["none"].left[0], wires["clipping"].left[0]
    share = 3 / norm(aligned, reference, parameters(reference))
    weight = "layer3.0.conv2.weight"
    assert torch.allclose(clipped[weight], reference[weight] + share * (aligned[weight] - reference[weight]), atol=1e-5)


def test_a_run_with_privacy_ends_with_a_merge(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **SHARED, privacy="local-dp", clipping_norm=1e-3, rounds=2, epochs=3)
    rounds = read_rounds(play_in_process(settings, 3))
    assert [record.outcome for record in rounds] == ["merged", "merged"]
    assert not any(record.refused for record in rounds)


def ask(settings: Settings, message_type: str, content: RecordDict) -> Message:
    """The reply of one site."""
    (reply,) = InProcessGrid(app, settings, 1).send_and_receive([Message(content, FIRST_NODE, message_type)])
    return reply


def private_settings(tmp_path: Path, privacy: str, **changes: object) -> Settings:
    return quick_settings(tmp_path, **{**SHARED, "privacy": privacy, "min_sites": 3, **changes})


def untrained(settings: Settings) -> dict[str, Tensor]:
    return build(Architecture(*settings.network), settings.seed).state_dict()


@pytest.fixture(scope="module")
def openly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without privacy leaves, in which three sites keep a network each."""
    settings = private_settings(tmp_path_factory.mktemp("openly"), KINDS[0]).model_copy(update={"privacy": "none"})
    return play_in_process(settings, 3).directory


@pytest.mark.parametrize("message_type", [NETWORK, ALIGN, PROBE, REPAIR, FEATURES, GRAM, OUTPUTS])
@pytest.mark.parametrize("privacy", KINDS)
def test_a_site_answers_nothing_around_privacy(tmp_path: Path, openly: Path, privacy: str, message_type: str) -> None:
    """Each would be answered without it, in a run that calls for it."""
    settings = private_settings(tmp_path, privacy)
    calling: dict[str, object] = {
        "privacy": "none",
        "reference": "largest",
        "probe_points": 3,
        "repair": True,
        "variants": True,
        "merge": "sequential",
    }
    shutil.copytree(openly, tmp_path / settings.run)
    network = to_arrays(untrained(settings))
    names = {ALIGN: (ARRAYS,), GRAM: (MERGED,), OUTPUTS: (MERGED, OWN)}.get(
        message_type, (REFERENCE_END, CANDIDATE_END)
    )
    config = ConfigRecord({LAYERS: ["fc"], **({LAMBDAS: [0.5]} if message_type == PROBE else {})})
    content = RecordDict({**dict.fromkeys(names, network), CONFIG: config})
    open_reply = ask(settings.model_copy(update=calling), message_type, content)
    assert not open_reply.has_error(), open_reply.error
    assert ask(settings, message_type, content).error.reason == "OperatorError: see the site's own log"


@pytest.mark.parametrize("privacy", KINDS)
def test_a_site_does_not_say_how_its_own_network_does(tmp_path: Path, privacy: str) -> None:
    settings = private_settings(tmp_path, privacy)
    store = play_in_process(settings, 3)
    assert [record.outcome for record in read_rounds(store)] == ["merged"]
    content = RecordDict({"merged": to_arrays(store.network(1)), CONFIG: ConfigRecord({OWN: True})})
    assert set(ask(settings, EVALUATE, content).content.metric_records[METRICS]) == {"merged"}
    bare = settings.model_copy(update={"privacy": "none"})
    assert set(ask(bare, EVALUATE, content).content.metric_records[METRICS]) == {"merged", OWN}


@pytest.mark.parametrize("privacy", ["clipping", "local-dp"])
def test_a_reply_holds_the_network_and_its_weight_alone(tmp_path: Path, privacy: str) -> None:
    settings = private_settings(tmp_path, privacy)
    config = ConfigRecord({ROUND: 1, START: "shared", TO_ALIGN: True})
    content = ask(settings, TRAIN, RecordDict({ARRAYS: to_arrays(untrained(settings)), CONFIG: config})).content
    assert set(content) == {ARRAYS, METRICS}
    assert dict(content.metric_records[METRICS]) == {N_EXAMPLES: 1438}


@pytest.mark.parametrize("privacy", KINDS)
def test_no_site_is_sent_the_network_of_another(tmp_path: Path, privacy: str) -> None:
    """Every network that goes out in two rounds, but the first, is a merged one."""
    asked: list[Message] = []

    class Watching(InProcessGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            sent = list(messages)
            asked.extend(sent)
            return super().push_messages(sent)

    # Clipped to little, so of little noise: a merge of nothing else would be void, and kept nowhere.
    settings = private_settings(tmp_path, privacy, rounds=2, epochs=1, clipping_norm=0.01)
    store = RunStore(tmp_path / settings.run)
    store.make()
    play(Watching(app, settings, 3), settings, store, Beginning())
    shown = [to_state(each)["fc.weight"] for one in asked for each in one.content.array_records.values() if len(each)]
    known = [untrained(settings)["fc.weight"], store.network(1)["fc.weight"], store.network(2)["fc.weight"]]
    assert len(shown) >= 12
    assert all(any(torch.equal(each, one) for one in known) for each in shown)


def test_without_privacy_nothing_is_touched(tmp_path: Path) -> None:
    watched: list[Message] = []

    def keep(partition: int, reply: Message) -> Message:
        watched.append(reply)
        return reply

    tamper: Tamper = keep
    play_in_process(quick_settings(tmp_path), tamper=tamper)
    assert CONFIG not in watched[0].content
    assert not config_of(watched[0])


@pytest.mark.parametrize("privacy", ["clipping", "local-dp"])
def test_of_an_update_that_is_not_finite_nothing_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, privacy: str
) -> None:
    """Flower takes min(1, C / NaN) for 1, and would send all other tensors as they are."""
    settings = quick_settings(tmp_path, **SHARED, privacy=privacy)
    sent = build(Architecture(*settings.network), 0).state_dict()
    name, broken = next(iter(sent)), list(sent)[-1]
    own = {key: tensor.clone() for key, tensor in sent.items()}
    own[name] += 1000.0
    own[broken][0] = math.nan
    grid = InProcessGrid(app, settings, 1)

    def trained(message: Message, context: Context) -> Message:
        content = RecordDict({ARRAYS: to_arrays(own), METRICS: MetricRecord({N_EXAMPLES: 10})})
        return Message(content, reply_to=message)

    message = Message(RecordDict({ARRAYS: to_arrays(sent)}), FIRST_NODE, TRAIN)
    message.metadata.__dict__["_message_id"] = "asked"
    reply = private(message, grid.context(0), trained)
    assert not reply.has_content()
    assert f"tensor {broken!r} of the trained network holds NaN or infinity" in caplog.text


def test_an_update_is_measured_from_the_network_that_it_was_clipped_to(tmp_path: Path) -> None:
    """With a given reference, sites are sent that one, not the initial network."""
    settings = quick_settings(tmp_path, align_at="site", probe_points=0, rounds=1)
    reference = build(Architecture(*settings.network), 77).state_dict()
    path = write_tensors(tmp_path / "reference.safetensors", reference)
    bounded = settings.model_copy(
        update={"privacy": "clipping", "clipping_norm": 1.0, "max_update_norm": 1.5, "reference": str(path)}
    )
    (record,) = read_rounds(play_in_process(bounded))
    assert (record.outcome, record.refused) == ("merged", [])


def test_noise_is_drawn_anew_though_a_sites_code_seeds_the_generator(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **SHARED, privacy="local-dp")
    sent = build(Architecture(*settings.network), 0).state_dict()
    name = next(iter(sent))
    own = {**sent, name: sent[name] + 1.0}
    grid = InProcessGrid(app, settings, 1)

    def trained(message: Message, context: Context) -> Message:
        np.random.seed(0)
        content = RecordDict({ARRAYS: to_arrays(own), METRICS: MetricRecord({N_EXAMPLES: 10})})
        return Message(content, reply_to=message)

    def answered() -> torch.Tensor:
        message = Message(RecordDict({ARRAYS: to_arrays(sent)}), FIRST_NODE, TRAIN)
        message.metadata.__dict__["_message_id"] = "asked"
        return to_state(private(message, grid.context(0), trained).content.array_records[ARRAYS])[name]

    assert (answered() - answered()).std() > noise_deviation(settings) / 2
