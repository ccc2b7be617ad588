"""Layers merged in closed form, over a federation."""

import gc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, Message
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from alignment.channels import channel_axes
from alignment.linear_layers import gram_sizes
from alignment.sequential import fit_layers
from client.app import app
from models import Architecture
from server import layers, recalibration
from server.app import play
from server.layers import merge_in_sequence
from server.records import RoundRecord
from server.resume import begin
from server.sites import Sites
from server.store import RunStore
from server.summary import read_rounds
from strategies.layer_sums import affordable
from strategies.protocol import ACROSS, GRAM, GRAMS, OUTPUTS, State
from tests.inprocess import FIRST_NODE, InProcessGrid, Played, play_in_process, quick_settings
from tests.replies import spoilt_grams

RESNET = {"model": "resnet20", "depth": 8, "width": 8, "learning_rate": 0.1, "epochs": 6}


def loss(store: RunStore) -> float:
    (record,) = read_rounds(store)
    assert record.merged is not None
    return record.merged.loss


def test_least_squares_merges_better_than_the_mean_after_weight_matching(played: Played) -> None:
    losses = {merge: loss(played(merge=merge, **RESNET)) for merge in ("mean", "least-squares")}
    assert losses["least-squares"] < losses["mean"]


def test_what_passes_the_limit_is_left_to_the_mean() -> None:
    sizes = {"first": 100, "second": 1000, "third": 200}
    assert affordable(sizes, 1000) == sizes
    assert affordable(sizes, 1.0) == {"first": 100, "third": 200}
    assert affordable(sizes, 0.001) == {}


@pytest.mark.parametrize("merge", ["least-squares", "sequential"])
def test_layers_past_the_limit_are_named_and_keep_their_mean(tmp_path: Path, merge: str) -> None:
    changes: dict[str, object] = {"epochs": 1, "width": 64, "probe_points": 0}
    store = play_in_process(quick_settings(tmp_path / "cut", merge=merge, gram_limit_megabytes=0.04, **changes))
    mean = play_in_process(quick_settings(tmp_path / "mean", **changes)).network(1)
    (record,) = read_rounds(store)
    (note,) = record.notes
    assert "of 3 layers are merged by their mean: gram-limit-megabytes = 0.04 has no room for their sums (" in note
    left = note.rpartition("(")[2].rstrip(")").split(", ")
    weights = {name.removesuffix(".weight") for name in mean if name.endswith(".weight")}
    same = {name for name in weights if torch.equal(store.network(1)[f"{name}.weight"], mean[f"{name}.weight"])}
    assert same == set(left)


def test_what_variants_lack_is_no_note_on_the_merge(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, epochs=1, width=64, variants=True, gram_limit_megabytes=0.04)
    (record,) = read_rounds(play_in_process(settings))
    assert record.notes == []


def test_the_shrinkage_reaches_the_equations(tmp_path: Path) -> None:
    changes: dict[str, object] = {"merge": "least-squares", "epochs": 1, "probe_points": 0}
    networks = [
        play_in_process(quick_settings(tmp_path / str(alpha), gram_shrinkage=alpha, **changes)).network(1)
        for alpha in (0.0, 0.5)
    ]
    assert not torch.equal(*(each["fc.weight"] for each in networks))


@pytest.mark.parametrize("merge", ["least-squares", "sequential"])
def test_what_sites_will_send_is_told_before_they_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, merge: str
) -> None:
    caplog.set_level("INFO", "fedrebasin")
    settings = quick_settings(tmp_path, merge=merge, epochs=1, width=64, probe_points=0)
    what = "Gram matrices of 3 layers, 0.1 MB" if merge == "least-squares" else "sums for 3 layers in turn, 0.1 MB"
    # What the server says, and what the site.
    told = (f"round 1: each site sends {what}", f"sending {what}")
    asked: list[bool] = []

    def look(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type in (GRAM, OUTPUTS):
            asked.append(all(any(line.startswith(each) for line in caplog.messages) for each in told))
        return reply

    play_in_process(settings, tamper=look)
    assert asked
    assert all(asked)


def test_products_with_the_outputs_count_towards_the_limit() -> None:
    assert affordable({"a": 500, "b": 400}, 1.2, {"a": 1, "b": 500}) == {"a": 500}


def test_a_site_that_sends_no_gram_matrices_leaves_the_mean(tmp_path: Path, played: Played) -> None:
    def silence(partition: int, reply: Message) -> Message | None:
        return None if partition == 1 and reply.metadata.message_type == GRAM else reply

    settings = quick_settings(tmp_path / "silent", merge="least-squares", round_deadline_seconds=0.5)
    silent = play_in_process(settings, tamper=silence)
    mean = played()
    assert silent.checkpoint_path(1).read_bytes() == mean.checkpoint_path(1).read_bytes()


@pytest.mark.parametrize("attack", ["wrong shape", "not finite", "negative", "lopsided", "impossible", "missing"])
def test_gram_matrices_that_cannot_be_are_left_out(tmp_path: Path, played: Played, attack: str) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == GRAM:
            record = reply.content.array_records["site-eu"]
            name, array = next(iter(record.items()))
            gram = torch.from_numpy(array.numpy().copy())
            if attack == "missing":
                del record[name]
            else:
                record[name] = Array(spoilt_grams(gram)[attack].numpy())
        return reply

    attacked = play_in_process(quick_settings(tmp_path / "attacked", merge="least-squares"), tamper=tamper)
    mean = played()
    assert attacked.checkpoint_path(1).read_bytes() == mean.checkpoint_path(1).read_bytes()


def test_layers_fitted_one_after_another_beat_all_at_once(played: Played) -> None:
    found = {merge: loss(played(merge=merge, **RESNET)) for merge in ("mean", "least-squares", "sequential")}
    assert found["sequential"] < min(found["mean"], found["least-squares"])


def test_each_layer_is_fitted_with_the_statistics_of_what_is_merged_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[tuple[Sites, nn.Module]] = []
    fitted: list[str] = []

    def begin_merge(sites: Sites, model: nn.Module, *others: Any) -> dict[str, Tensor]:
        there.append((sites, model))
        return merge_in_sequence(sites, model, *others)

    def fit(state: State, sums: list[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
        ((sites, model),) = there
        (layer,) = sums[0]
        renewed = recalibration.recalibrate(sites, model, {"merged": state}, until=layer)["merged"]
        assert all(torch.equal(tensor, state[name]) for name, tensor in renewed.items())
        fitted.append(layer)
        return fit_layers(state, sums)

    monkeypatch.setattr("server.merge.merge_in_sequence", begin_merge)
    monkeypatch.setattr(layers, "fit_layers", fit)
    quick = RESNET | {"epochs": 1, "width": 4, "probe_points": 0}
    play_in_process(quick_settings(tmp_path, merge="sequential", **quick))
    assert len(fitted) > 2


@pytest.mark.parametrize(
    "attack", ["silent", "wrong shape", "not finite", "negative", "lopsided", "impossible", "huge products"]
)
def test_a_site_that_sends_no_sums_or_such_as_cannot_be_leaves_the_mean(
    tmp_path: Path, played: Played, attack: str
) -> None:
    asked = 0

    def tamper(partition: int, reply: Message) -> Message | None:
        nonlocal asked
        if partition != 1 or reply.metadata.message_type != OUTPUTS:
            return reply
        asked += 1
        if asked < 2:  # the first layer is fitted by then
            return reply
        if attack == "silent":
            return None
        huge = attack == "huge products"
        record = reply.content.array_records[ACROSS if huge else GRAMS]
        (name,) = record
        said = torch.from_numpy(record[name].numpy().copy())
        record[name] = Array((torch.full_like(said, 3e38) if huge else spoilt_grams(said)[attack]).numpy())
        return reply

    settings = quick_settings(tmp_path / "attacked", merge="sequential", round_deadline_seconds=0.5)
    attacked = play_in_process(settings, tamper=tamper)
    mean = played()
    assert asked == 2
    assert attacked.checkpoint_path(1).read_bytes() == mean.checkpoint_path(1).read_bytes()


def test_variants_measure_it_among_the_rest(tmp_path: Path) -> None:
    (record,) = read_rounds(play_in_process(quick_settings(tmp_path / "all", baselines=True, variants=True)))
    assert isinstance(record, RoundRecord)
    found = record.baselines["aligned.recalibrated.least-squares"]
    alone = loss(play_in_process(quick_settings(tmp_path / "alone", merge="least-squares")))
    assert found.loss == pytest.approx(alone, rel=1e-5)
    assert "aligned.recalibrated.least-squares.ridge" in record.baselines


def test_sites_are_sent_no_more_of_a_network_than_what_they_answer_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {**RESNET, "epochs": 1, "probe_points": 0, "merge": "sequential"}
    part = play_in_process(quick_settings(tmp_path / "part", **quick))

    def everything(model: nn.Module, layer: str, example: Tensor) -> list[str]:
        return list(model.state_dict())

    monkeypatch.setattr(recalibration, "needed", everything)
    whole = play_in_process(quick_settings(tmp_path / "whole", **quick))
    assert part.checkpoint_path(1).read_bytes() == whole.checkpoint_path(1).read_bytes()
    sent, all_sent = (read_rounds(store)[0].traffic["site-us"].sent for store in (part, whole))
    assert sent < 0.6 * all_sent


class WithUnused(nn.Module):
    """A network with a layer that only training would use, in front of all others."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(64, architecture.classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, architecture.width), nn.ReLU())
        self.fc = nn.Linear(architecture.width, architecture.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def with_unused(architecture: Architecture) -> nn.Module:
    """For the setting ``model``."""
    return WithUnused(architecture)


@pytest.mark.parametrize(("merge", "asked"), [("least-squares", GRAM), ("sequential", OUTPUTS)])
def test_a_layer_that_nobody_calls_is_not_asked_about(tmp_path: Path, merge: str, asked: str) -> None:
    answered = 0

    def count(partition: int, reply: Message) -> Message:
        nonlocal answered
        answered += reply.metadata.message_type == asked
        return reply

    model = "tests.test_merge_layers:with_unused"
    quick: dict[str, object] = {"model": model, "width": 16, "epochs": 2, "probe_points": 0}
    store = play_in_process(quick_settings(tmp_path / "solved", merge=merge, **quick), tamper=count)
    mean = play_in_process(quick_settings(tmp_path / "mean", **quick))
    (record,) = read_rounds(store)
    assert record.refused == []
    assert answered == (2 if merge == "least-squares" else 4)
    solved, plain = store.network(1), mean.network(1)
    assert solved["auxiliary.weight"].equal(plain["auxiliary.weight"])
    assert not solved["body.1.weight"].equal(plain["body.1.weight"])


class WithTied(nn.Module):
    """A network in whose middle two layers share their weights."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.one, self.two, self.three = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, width)
        self.three.weight = self.two.weight
        self.fc = nn.Linear(width, architecture.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.three(self.two(self.one(x.flatten(1)).relu()).relu()).relu())


def with_tied(architecture: Architecture) -> nn.Module:
    """For the setting ``model``."""
    return WithTied(architecture)


@pytest.mark.parametrize("asked", [{"merge": "least-squares"}, {"merge": "sequential"}, {"repair": True}], ids=str)
def test_layers_that_share_their_weights_keep_their_mean(tmp_path: Path, asked: dict[str, object]) -> None:
    model = "tests.test_merge_layers:with_tied"
    quick: dict[str, object] = {"model": model, "width": 16, "epochs": 2, "probe_points": 0}
    solved, plain = (
        play_in_process(quick_settings(tmp_path / str(len(changes)), **quick, **changes)).network(1)
        for changes in (asked, {})
    )
    changed = {name for name, tensor in plain.items() if not tensor.equal(solved[name])}
    assert changed == {"one.weight", "one.bias", "fc.weight", "fc.bias"}


def test_layers_whose_weights_are_held_in_another_form_keep_their_mean() -> None:
    """`weight_norm` has no weight that could be set: what is solved, or corrected, would be nowhere."""
    network = nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 16)), nn.ReLU(), nn.Linear(16, 10))
    inputs = torch.randn(4, 1, 8, 8)
    assert list(gram_sizes(network, inputs)) == ["3"]
    assert list(channel_axes(network, inputs)) == ["3"]


class Looking(InProcessGrid):
    """Counts, as each message comes and as each answer goes, the sums of a layer, and the questions, in memory."""

    most = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Looks first."""
        self.look()
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Looks first."""
        self.look()
        return super().pull_messages(message_ids)

    def look(self) -> None:
        """The layer's Gram matrix has 65 rows, its products with the outputs as many."""
        tensors = [each for each in gc.get_objects() if type(each) is Tensor]
        messages = [each.metadata for each in gc.get_objects() if type(each) is Message]
        sums = sum(each.shape in ((65, 65), (65, 64)) for each in tensors)
        asked = sum(each.message_type in (GRAM, OUTPUTS) and each.dst_node_id >= FIRST_NODE for each in messages)
        self.most = max(self.most, sums + asked)


# Questions about features are the same for all sites, and not counted.
@pytest.mark.parametrize(
    ("changes", "fewest"), [({"merge": "least-squares"}, 1), ({"merge": "sequential"}, 1), ({"head": "ridge"}, 0)]
)
def test_what_is_asked_of_each_site_and_what_it_sends_is_not_all_in_memory(
    tmp_path: Path, changes: dict[str, object], fewest: int
) -> None:
    most: list[int] = []
    for n_sites in (3, 6):
        settings = quick_settings(tmp_path / str(n_sites), epochs=1, width=64, probe_points=0, **changes)
        grid = Looking(app, settings, n_sites)
        store = RunStore(Path(settings.runs_dir) / settings.run)
        # What was there before, a million objects, is neither of this run nor looked through at each message.
        gc.freeze()
        try:
            play(grid, settings, store, begin(store, settings))
        finally:
            gc.unfreeze()
        most.append(grid.most)
    assert fewest <= most[0] == most[1]
