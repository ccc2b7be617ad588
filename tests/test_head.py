"""The last layer of a merge, for sites with different labels."""

import math
from pathlib import Path
from typing import cast

import pytest
import torch
from flwr.app import Array, Message, MetricRecord, RecordDict
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from alignment.barrier import LossSums
from cli.settings import checked_settings
from client.sources import DIGITS, read_samples, scaled
from models import Architecture, build
from server.heads import average_by_counts, best_scales, check_head, scales
from server.records import RoundRecord
from server.remarks import network_remarks
from server.shared import check_shared
from server.store import RunStore
from server.summary import read_rounds
from strategies.admission import Admitted
from strategies.errors import SettingsError
from strategies.protocol import (
    CLASS_COUNTS,
    EVALUATE,
    FEATURES,
    GRAM,
    LOGISTIC,
    MERGED,
    METRICS,
    N_EXAMPLES,
    TRAIN,
    scaled_name,
)
from strategies.settings import parse_settings
from tests.attacks.federation import fail
from tests.inprocess import Tamper, honest, play_in_process, quick_settings
from tests.replies import spoilt_grams

RESNET = {"model": "resnet20", "depth": 8, "width": 16, "learning_rate": 0.1, "epochs": 6, "align_at": "site"}


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record


def score(record: RoundRecord) -> tuple[float, float]:
    assert record.merged is not None
    return record.merged.accuracy, record.merged.loss


def test_on_disjoint_labels_counts_beat_the_mean_and_ridge_beats_counts(tmp_path: Path) -> None:
    found = {
        head: score(one_round(play_in_process(quick_settings(tmp_path / head, head=head, split="disjoint", **RESNET))))
        for head in ("mean", "counts", "ridge")
    }
    assert found["mean"][0] < found["counts"][0] < found["ridge"][0]
    assert found["ridge"][0] > 0.9
    assert found["ridge"][1] < found["mean"][1]


def test_the_mean_head_asks_for_no_class_counts_and_no_features(tmp_path: Path) -> None:
    kinds: set[str] = set()
    metrics: set[str] = set()

    def look(partition: int, reply: Message) -> Message:
        kinds.add(reply.metadata.message_type)
        metrics.update(*(set(record) for record in reply.content.metric_records.values()))
        return reply

    play_in_process(quick_settings(tmp_path), tamper=look)
    assert FEATURES not in kinds
    assert CLASS_COUNTS not in metrics


def test_variants_measure_each_last_layer_of_both_means(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, baselines=True, variants=True)))
    for mean in ("naive", "aligned"):
        assert {f"{mean}.recalibrated.{head}" for head in ("counts", "ridge")} <= set(record.baselines)
    ridge = one_round(play_in_process(quick_settings(tmp_path / "ridge", head="ridge")))
    assert ridge.merged is not None
    assert ridge.merged.loss == pytest.approx(record.baselines["aligned.recalibrated.ridge"].loss, rel=1e-5)


@pytest.mark.parametrize(
    "counts",
    [[1] * 10, [-1, 1] * 5, [72] * 9, "many", [71.9] * 10],
    ids=["too few in all", "negative", "too short", "text", "fractions"],
)
def test_class_counts_that_cannot_be_are_refused(tmp_path: Path, counts: object) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == TRAIN:
            metrics = reply.content.metric_records[METRICS]
            if isinstance(counts, list):
                metrics[CLASS_COUNTS] = counts
            else:
                del metrics[CLASS_COUNTS]
        return reply

    record = one_round(play_in_process(quick_settings(tmp_path, head="counts"), 3, tamper))
    assert [(refused.site, refused.reason) for refused in record.refused] == [("site-eu", "COUNTS")]
    assert sorted(record.weights) == ["site-3", "site-us"]


def solved(folder: Path, tamper: Tamper) -> Tensor:
    """The last layer of three sites' merge, with ridge regression if it can be."""
    settings = quick_settings(folder, head="ridge", round_deadline_seconds=0.5)
    return play_in_process(settings, 3, tamper).network(1)["fc.weight"]


@pytest.fixture(scope="module")
def silent_and_honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """The last layer where one site says nothing of its features, and where all do."""

    def silence(partition: int, reply: Message) -> Message | None:
        return None if partition == 1 and reply.metadata.message_type == FEATURES else reply

    return solved(tmp_path_factory.mktemp("silent"), silence), solved(tmp_path_factory.mktemp("honest"), honest)


@pytest.mark.parametrize("attack", ["wrong shape", "not finite", "negative", "lopsided", "impossible"])
def test_feature_sums_that_cannot_be_leave_the_mean(
    tmp_path: Path, silent_and_honest: tuple[Tensor, Tensor], attack: str
) -> None:
    def spoil(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == FEATURES:
            (record,) = reply.content.array_records.values()
            gram = torch.from_numpy(record["gram"].numpy().copy())
            record["gram"] = Array(spoilt_grams(gram)[attack].numpy())
        return reply

    silent, whole = silent_and_honest
    spoilt = solved(tmp_path, spoil)
    assert torch.equal(spoilt, silent)
    assert not torch.equal(spoilt, whole)


def test_a_variant_that_a_site_does_not_answer_for_is_left_out(tmp_path: Path) -> None:
    def lose(partition: int, reply: Message) -> Message | None:
        return None if partition == 1 and reply.metadata.message_type == GRAM else reply

    settings = quick_settings(tmp_path, variants=True, epochs=1, width=16, round_deadline_seconds=1.0)
    names = one_round(play_in_process(settings, 2, lose)).baselines
    assert "aligned.recalibrated" in names
    assert not [name for name in names if "least-squares" in name]


def test_variants_are_what_other_settings_would_have_merged(tmp_path: Path) -> None:
    """Weights alone, from the identity; and nothing moved."""
    few: dict[str, object] = {"epochs": 1, "width": 16, "probe_points": 0, "guard": False}
    both = quick_settings(tmp_path / "both", align_at="both", variants=True, **few)
    scores = one_round(play_in_process(both)).baselines
    for name, align_at in (("weights.recalibrated", "server"), ("naive.recalibrated", "none")):
        alone = one_round(play_in_process(quick_settings(tmp_path / align_at, align_at=align_at, **few)))
        assert alone.merged is not None
        # What nothing moves is added up as FedAvg does, in single precision.
        assert scores[name].loss == pytest.approx(alone.merged.loss, rel=1e-5)
    assert scores["then-weights.recalibrated"] != scores["weights.recalibrated"]


def test_of_all_scales_of_a_layer_that_of_least_loss_is_taken() -> None:
    for best in (0, 5, len(scales) - 1):
        sums = {scaled_name("a", number): LossSums(10, 1.0 + abs(number - best), 1.0) for number in range(len(scales))}
        ((scale, found),) = best_scales(sums, ["a"]).values()
        assert (scale, found.loss) == (scales[best], 1.0)


def test_a_solved_layer_is_scaled_between_the_extremes(tmp_path: Path) -> None:
    """By what sites say of the seventh scale alone; its layer is that of the first, times the scale."""
    networks: list[dict[str, Tensor]] = []
    for liked in (0, 7):

        def tamper(partition: int, reply: Message, liked: int = liked) -> Message:
            metrics = reply.content.metric_records.get(METRICS)
            if reply.metadata.message_type == EVALUATE and metrics is not None and scaled_name(MERGED, 0) in metrics:
                losses = {name: 1.0 if name == scaled_name(MERGED, liked) else 2.0 for name in metrics}
                reply.content[METRICS] = MetricRecord({name: [100.0, each, 50.0] for name, each in losses.items()})
            return reply

        settings = quick_settings(tmp_path / str(liked), head="ridge", probe_points=0, epochs=1)
        networks.append(play_in_process(settings, tamper=tamper).network(1))
    first, seventh = networks
    for part in ("fc.weight", "fc.bias"):
        torch.testing.assert_close(seventh[part], first[part] * (scales[7] / scales[0]))


def test_counts_weigh_the_rows_of_aligned_networks() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    came, aligned = ({"1.weight": torch.full((2, 2), v), "1.bias": torch.full((2,), v)} for v in (1.0, 3.0))
    metrics = [MetricRecord({CLASS_COUNTS: counts, N_EXAMPLES: 4}) for counts in ([3, 1], [1, 3])]
    replies = {
        site: Admitted(site, came, 4, RecordDict({"metrics": each})) for site, each in zip("ab", metrics, strict=True)
    }
    others = {name: 2 * tensor for name, tensor in aligned.items()}
    merged = average_by_counts(model, came, {"a": aligned, "b": others}, replies, 2)
    assert merged["1.bias"].tolist() == [(3 * 3 + 1 * 6) / 4, (1 * 3 + 3 * 6) / 4]


def test_who_weighs_less_than_it_holds_counts_less_in_each_row() -> None:
    """Of classes that others have too; of one that it has alone it decides the row."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    networks = [{"1.weight": torch.full((2, 2), v), "1.bias": torch.full((2,), v)} for v in (1.0, 3.0)]
    metrics = [MetricRecord({CLASS_COUNTS: counts, N_EXAMPLES: sum(counts)}) for counts in ([4, 0], [500, 500])]
    replies = {
        site: Admitted(site, network, 4, RecordDict({"metrics": each}))
        for site, network, each in zip("ab", networks, metrics, strict=True)
    }
    merged = average_by_counts(model, networks[0], dict(zip("ab", networks, strict=True)), replies, 2)
    # The second has half of 4, as the share of its samples is, and not 500.
    assert merged["1.bias"].tolist() == pytest.approx([(4 * 1 + 2 * 3) / 6, 3.0])


@pytest.mark.parametrize("attack", ["not finite", "wrong shape", "negative", "other samples"])
def test_feature_sums_of_the_classes_that_cannot_be_leave_the_mean(tmp_path: Path, attack: str) -> None:
    def spoil(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == FEATURES:
            (record,) = reply.content.array_records.values()
            sums = torch.from_numpy(record["targets"].numpy().copy())
            less = sums.clone()
            less[-1, 0] = -1.0
            spoilt = {
                "not finite": sums.index_fill(0, torch.tensor([0]), float("nan")),
                "wrong shape": sums[:, :-1],
                "negative": less,
                "other samples": 2 * sums,
            }
            record["targets"] = Array(spoilt[attack].numpy())
        return reply

    record = one_round(play_in_process(quick_settings(tmp_path, head="ridge", epochs=1), 3, spoil))
    assert [refused.site for refused in record.refused] == ["site-eu"]
    assert record.notes[0] == "the last layer stays as it was, without an answer of site-eu"


def test_sums_that_only_look_like_those_of_samples_leave_the_ridge_head(tmp_path: Path) -> None:
    """A great count leaves room, beside the trace, for a matrix that is not positive definite."""

    def spoil(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == FEATURES:
            (record,) = reply.content.array_records.values()
            gram, targets = (torch.from_numpy(record[name].numpy().copy()) for name in ("gram", "targets"))
            targets[-1, 0] += 1e9 - gram[-1, -1]
            gram[-1, -1] = 1e9
            gram[0, 1] = gram[1, 0] = 9000.0
            record["gram"], record["targets"] = Array(gram.numpy()), Array(targets.numpy())
        return reply

    record = one_round(play_in_process(quick_settings(tmp_path, head="logistic", epochs=1), 2, spoil))
    assert record.head is not None
    assert (record.head.kept, record.head.trips) == ("ridge", 0)
    assert "the last layer is that of ridge regression: the sums are no sums over samples" in record.notes


def test_repair_keeps_rounds_of_solved_heads_from_going_astray_without_normalisation(tmp_path: Path) -> None:
    longer = {"epochs": 20, "later_epochs": 3, "learning_rate": 0.1, "rounds": 3, "head": "ridge", "repair": True}
    records = read_rounds(play_in_process(quick_settings(tmp_path, **longer), 3))
    # Without `repair` it is 0.96, 0.92, 0.11.
    assert min(score(record)[0] for record in records) > 0.93


def test_the_first_round_notes_what_may_come_of_its_settings(tmp_path: Path) -> None:
    quick: dict[str, object] = {"epochs": 1, "later_epochs": 1, "head": "ridge", "rounds": 2, "probe_points": 0}
    first, second = read_rounds(play_in_process(quick_settings(tmp_path, **quick)))
    assert ["may diverge" in note for note in first.notes] == [True]
    assert second.notes == []


def test_the_first_round_notes_a_head_that_nothing_reads(tmp_path: Path) -> None:
    quick: dict[str, object] = {"model": "tests.commands:two_heads", "epochs": 1, "probe_points": 0}
    (first,) = read_rounds(play_in_process(quick_settings(tmp_path, **quick)))
    assert ["'heads.1.weight' is without a say in the outputs" in note for note in first.notes] == [True]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"head": "logistic"}, True),
        ({"head": "mean"}, False),
        ({"rounds": 1}, False),
        ({"repair": True}, False),
        ({"norm": "layer"}, False),
        ({"norm": "batch"}, False),
    ],
    ids=str,
)
def test_rounds_of_solved_heads_without_normalisation_are_warned_of(changes: dict[str, object], told: bool) -> None:
    settings = parse_settings({"model": "mlp", "width": 16, "head": "ridge", "rounds": 3, **changes})
    model = build(Architecture(*settings.network), 0)
    assert ["diverge" in line for line in network_remarks(model, settings)] == [True] * told


def test_without_one_sites_sums_no_head_is_solved(tmp_path: Path) -> None:
    """Solved from the others' sums alone it would not know that site's classes."""

    def silent(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == FEATURES:
            fail(reply)
        return reply

    settings = {"split": "disjoint", "epochs": 1, "width": 16, "align_at": "site"}
    solved = play_in_process(quick_settings(tmp_path / "ridge", head="ridge", **settings), tamper=silent)
    mean = play_in_process(quick_settings(tmp_path / "mean", head="mean", **settings))
    assert solved.checkpoint_path(1).read_bytes() == mean.checkpoint_path(1).read_bytes()


@pytest.mark.parametrize("head", ["ridge", "logistic"])
def test_a_solved_layer_without_a_finite_loss_leaves_the_mean_and_a_note(tmp_path: Path, head: str) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        metrics = reply.content.metric_records.get(METRICS)
        if reply.metadata.message_type == EVALUATE and metrics is not None and scaled_name(MERGED, 0) in metrics:
            reply.content[METRICS] = MetricRecord({name: [100.0, math.inf, 50.0] for name in metrics})
        return reply

    plain = play_in_process(quick_settings(tmp_path / "mean", probe_points=0))
    store = play_in_process(quick_settings(tmp_path / head, head=head, probe_points=0), tamper=tamper)
    assert all(torch.equal(store.network(1)[name], tensor) for name, tensor in plain.network(1).items())
    (note,) = one_round(store).notes
    assert note == "the last layer stays as it was: at no scale of it all sites have a finite loss"


def test_logistic_regression_lowers_the_loss_and_both_heads_are_told(tmp_path: Path) -> None:
    settings = {"split": "disjoint", "epochs": 1, "width": 16, "align_at": "site"}
    ridge, logistic = (
        one_round(play_in_process(quick_settings(tmp_path / head, head=head, **settings)))
        for head in ("ridge", "logistic")
    )
    assert logistic.head is not None
    assert logistic.head.logistic is not None
    assert logistic.head.ridge == ridge.merged
    assert logistic.head.kept == "logistic"
    assert logistic.head.trips == 8
    assert logistic.merged == logistic.head.logistic
    assert logistic.head.logistic.loss < logistic.head.ridge.loss


@pytest.mark.parametrize("after", [0, 3])
def test_without_a_gradient_the_last_layer_stays_where_it_was_brought(tmp_path: Path, after: int) -> None:
    seen = 0

    def silent(partition: int, reply: Message) -> Message:
        nonlocal seen
        if partition == 1 and reply.metadata.message_type == LOGISTIC:
            seen += 1
            if seen > after:
                fail(reply)
        return reply

    settings = {"split": "disjoint", "epochs": 1, "width": 16, "align_at": "site"}
    cut = play_in_process(quick_settings(tmp_path / "cut", head="logistic", **settings), tamper=silent)
    as_long = {"head": "logistic", "head_trips": after} if after else {"head": "ridge"}
    whole = play_in_process(quick_settings(tmp_path / "whole", **as_long, **settings))
    record = one_round(cut)
    assert record.head is not None
    assert record.head.trips == after
    assert (record.head.logistic is None) == (after == 0)
    assert torch.equal(cut.network(1)["fc.weight"], whole.network(1)["fc.weight"])


def test_the_ridge_head_stays_where_the_logistic_one_is_worse_on_held_out_samples(tmp_path: Path) -> None:
    def worse(partition: int, reply: Message) -> Message:
        """Site-eu's held-out samples like the logistic head less than they do."""
        metrics = reply.content.metric_records.get(METRICS)
        if partition == 1 and metrics is not None and "logistic" in metrics:
            count, loss, right = cast(list[float], metrics["logistic"])
            metrics["logistic"] = [count, loss + 1000.0, right]
        return reply

    settings = {"split": "disjoint", "epochs": 1, "width": 16, "align_at": "site"}
    kept = play_in_process(quick_settings(tmp_path / "kept", head="logistic", **settings), tamper=worse)
    ridge = play_in_process(quick_settings(tmp_path / "ridge", head="ridge", **settings))
    record = one_round(kept)
    assert record.head is not None
    assert record.head.kept == "ridge"
    assert kept.checkpoint_path(1).read_bytes() == ridge.checkpoint_path(1).read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", -1.0),
        ("loss", float("nan")),
        ("gradient", 1.0),
        ("gradient", float("inf")),
        ("gradient", "huge"),
    ],
    ids=["negative", "not a number", "no probabilities", "not finite", "huge"],
)
def test_gradients_that_cannot_be_cost_their_site_its_turn(tmp_path: Path, name: str, value: float | str) -> None:
    def spoil(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == LOGISTIC:
            (record,) = reply.content.array_records.values()
            said = torch.from_numpy(record[name].numpy().copy())
            record[name] = Array((said * 1e200 if isinstance(value, str) else torch.full_like(said, value)).numpy())
        return reply

    record = one_round(play_in_process(quick_settings(tmp_path, head="logistic", epochs=1), 3, spoil))
    assert [refused.site for refused in record.refused] == ["site-eu"]
    assert record.head is not None
    assert record.head.trips == 0


class PerToken(nn.Module):
    """A classifier that is called on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[:, 0]).mean(1)


class ClassifierFirst(nn.Module):
    """Registered in another order than it is called, and as wide as there are classes."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(10, 10)
        self.hidden = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.hidden(x.flatten(1)).relu())


@pytest.mark.parametrize("asked", [{"head": "ridge"}, {"head": "counts"}, {"variants": True}])
@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "Sequential has no nn.Linear that could be its classifier"),
        (PerToken(), "expected to be called once on (samples, features)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)), "must have a bias and 10 outputs"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 12)), "must have a bias and 10 outputs"),
        (nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 10))), "no tensor '1.weight' that could be set"),
        (ClassifierFirst(), "puts out something else than its last linear layer, 'hidden'"),
    ],
)
def test_a_last_layer_that_cannot_be_renewed_is_told_before_anybody_trains(
    model: nn.Module, told: str, asked: dict[str, object]
) -> None:
    check_head(model, parse_settings({}))
    with pytest.raises(SettingsError, match=f"setting '{next(iter(asked))}'") as error:
        check_head(model, parse_settings(asked))
    assert told in str(error.value)


def one_layer(architecture: Architecture) -> nn.Module:
    """A classifier that is the whole network: its layer has no name."""
    return nn.Linear(64, architecture.classes)


def rows() -> tuple[Tensor, Tensor]:
    """The digits as rows of numbers, which a linear layer takes."""
    digits = read_samples(DIGITS)
    return scaled(digits.inputs).flatten(1), digits.targets


@pytest.mark.parametrize("asked", [{"head": "counts", "merge": "sequential"}, {"head": "ridge"}, {"head": "logistic"}])
def test_a_network_may_be_its_last_layer(tmp_path: Path, asked: dict[str, object]) -> None:
    given: dict[str, object] = {"model": "tests.test_head:one_layer", "shape": "64", "data": "tests.test_head:rows"}
    asked = {"width": 0, "depth": 0, "split": "disjoint", "align_at": "site", "mix": "search", "variants": True} | asked
    settings = quick_settings(tmp_path, **given, **asked)
    checked_settings(settings.model_dump(by_alias=True), simulated=True)
    record = one_round(play_in_process(settings))
    assert score(record)[0] > 0.8
    assert not record.notes


class Tied(nn.Module):
    """A classifier under two names, and a body of which two layers share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.three.weight = self.two.weight
        self.fc = nn.Linear(16, 10)
        self.classifier = self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.three(self.two(self.one(x.flatten(1)))))


class NormTwice(Tied):
    """A norm under two names, whose statistics every run renews."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.same = self.norm


@pytest.mark.parametrize(
    ("network", "asked", "told"),
    [
        (Tied(), {"head": "ridge"}, "'head': the run would write 'fc.weight', which is 'classifier.weight' too"),
        (Tied(), {"variants": True}, "'variants': the run would write 'fc.weight', which is 'classifier.weight' too"),
        (NormTwice(), {}, "'model': the run would write 'norm.running_mean', which is 'same.running_mean' too"),
    ],
)
def test_what_a_network_has_twice_is_not_written_once(network: nn.Module, asked: dict[str, object], told: str) -> None:
    shape: dict[str, object] = {"shape": "1x8x8"}
    for merge in ("mean", "least-squares", "sequential"):
        check_shared(Tied(), parse_settings(shape | {"merge": merge, "repair": True}))
    with pytest.raises(SettingsError) as error:
        check_shared(network, parse_settings(shape | asked))
    assert str(error.value).startswith(f"setting {told}")
