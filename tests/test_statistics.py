"""Statistics of a merged network over sites whose data differ."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, recalibrate, write_moments
from alignment.moments import Moments, pool_moments
from alignment.repair import goals_between
from models import Architecture, build
from server import recalibration
from server.records import RoundRecord
from server.remarks import network_remarks
from server.store import RunStore
from server.summary import read_rounds
from strategies.protocol import EVALUATE, PROBE, RECALIBRATE, REPAIR
from strategies.settings import parse_settings
from tests.inprocess import play_in_process, quick_settings
from tests.trained import digits, digits_network


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record


def two_sites() -> tuple[Tensor, Tensor]:
    """Samples of the classes 0-4 and of 5-9."""
    batches = digits()[0]
    inputs, targets = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    return inputs[targets < 5], inputs[targets >= 5]


def after(passes: int, model: nn.Module) -> dict[str, Tensor]:
    for number in range(passes):
        parts = [batch_norm_moments(model, [site], settled=number > 0) for site in two_sites()]
        model.load_state_dict(write_moments(model.state_dict(), pool_moments(parts)))
    return model.state_dict()


def test_each_pass_comes_nearer_to_the_statistics_of_all_data_and_as_many_as_layers_reach_them() -> None:
    whole = digits_network("resnet20", "batch", 8, 0, depth=8)
    recalibrate(whole, [torch.cat(two_sites())])
    expected = whole.state_dict()
    running = [name for name in expected if "running" in name]
    off = [
        max((state[name] - expected[name]).abs().max().item() / expected[name].abs().max().item() for name in running)
        for state in (after(passes, digits_network("resnet20", "batch", 8, 0, depth=8)) for passes in (1, 4, 8))
    ]
    assert off[0] > off[1] > off[2]
    # Batches are normalised by the biased variance, and running statistics hold the unbiased one.
    assert off[2] < 3e-4


def instance_norm(architecture: Architecture) -> nn.Module:
    """A network whose statistics are no BatchNorm's: a merge renews none."""
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    layers = (nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, architecture.classes))
    return nn.Sequential(*layers)


def test_statistics_that_no_merge_renews_are_not_asked_for_nor_counted(tmp_path: Path) -> None:
    asked: list[str] = []

    def keep(partition: int, reply: Message) -> Message:
        asked.append(reply.metadata.message_type)
        return reply

    network: dict[str, object] = {"model": "tests.test_statistics:instance_norm", "width": 0, "depth": 0}
    record = one_round(play_in_process(quick_settings(tmp_path, epochs=1, **network), 2, keep))
    assert {PROBE, EVALUATE} < set(asked)
    assert RECALIBRATE not in asked
    assert record.recalibration_samples == 0
    (told,) = record.notes
    assert told.startswith("setting 'model': a merge leaves the running statistics of '1' (InstanceNorm2d) at")


def untracked(architecture: Architecture) -> nn.Module:
    norm = nn.InstanceNorm2d(4, affine=True)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, architecture.classes))


def two_instance_norms(architecture: Architecture) -> nn.Module:
    return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), instance_norm(architecture))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            "tests.test_statistics:two_instance_norms",
            "the running statistics of '0' (InstanceNorm2d), and of 1 more, at",
        ),
        ("tests.test_statistics:untracked", ""),
        ("resnet20", ""),
    ],
)
def test_statistics_that_no_merge_renews_are_told_before_a_run(network: str, told: str) -> None:
    own = {"width": 0, "depth": 0} if ":" in network else {"width": 4}
    settings = parse_settings({"model": network, **own})
    lines = network_remarks(build(Architecture(*settings.network), 0), settings)
    assert [told in line for line in lines] == [True] * bool(told)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model": "resnet20", "head": "ridge"}, True),
        ({"model": "resnet20", "head": "mean"}, False),
        ({"model": "mlp", "head": "ridge"}, False),
    ],
)
def test_repair_of_a_layer_that_is_solved_anyway_is_told_before_a_run(config: dict[str, object], told: bool) -> None:
    settings = parse_settings({"repair": True, "width": 4, "rounds": 1, **config})
    lines = network_remarks(build(Architecture(*settings.network), 0), settings)
    assert ["setting 'repair' = true changes nothing" in line for line in lines] == [True] * told


def test_a_run_can_take_several_passes(tmp_path: Path) -> None:
    settings = {"model": "resnet20", "depth": 8, "width": 4, "epochs": 1, "split": "disjoint"}
    stores = [play_in_process(quick_settings(tmp_path / str(n), recalibrate_passes=n, **settings)) for n in (1, 3)]
    one, three = (store.network(1) for store in stores)
    assert not torch.equal(one["layer3.0.bn2.running_var"], three["layer3.0.bn2.running_var"])
    assert torch.equal(one["layer3.0.conv2.weight"], three["layer3.0.conv2.weight"])


@pytest.mark.parametrize("n_sites", [2, 3])
def test_repair_lowers_the_loss_of_a_merge_without_batch_norm(tmp_path: Path, n_sites: int) -> None:
    losses: list[float] = []
    for repaired in (False, True):
        settings = quick_settings(tmp_path / str(repaired), repair=repaired, split="iid", width=32)
        merged = one_round(play_in_process(settings, n_sites)).merged
        assert merged is not None
        losses.append(merged.loss)
    assert losses[1] < 0.9 * losses[0]


def test_repair_lowers_the_loss_of_recalibrated_batch_norm_networks_too(tmp_path: Path) -> None:
    losses: list[float] = []
    for repaired in (False, True):
        network = {"model": "resnet20", "depth": 8, "width": 16, "epochs": 5, "split": "iid"}
        settings = quick_settings(tmp_path / str(repaired), repair=repaired, **network)
        merged = one_round(play_in_process(settings)).merged
        assert merged is not None
        losses.append(merged.loss)
    assert losses[1] < losses[0]


def test_repair_leaves_to_batch_norm_what_comes_before_it(tmp_path: Path) -> None:
    """Else the statistics that were just renewed would be those of another network."""
    networks: list[dict[str, Tensor]] = []
    losses: list[float] = []
    for repaired in (False, True):
        settings = quick_settings(tmp_path / str(repaired), repair=repaired, norm="batch", split="iid", width=32)
        store = play_in_process(settings)
        merged = one_round(store).merged
        assert merged is not None
        networks.append(store.network(1))
        losses.append(merged.loss)
    plain, repaired = networks
    assert {name for name in plain if not torch.equal(plain[name], repaired[name])} == {"fc.weight", "fc.bias"}
    assert losses[1] < losses[0]


@pytest.mark.parametrize("trip", [1, 2, 4])
def test_repair_takes_no_goals_of_other_samples_than_it_measures(tmp_path: Path, trip: int) -> None:
    asked: list[int] = []

    def lose(partition: int, reply: Message) -> Message | None:
        if reply.metadata.message_type != REPAIR:
            return reply
        asked.append(partition)
        return None if partition == 1 and asked.count(1) == trip else reply

    settings: dict[str, object] = {"split": "disjoint", "round_deadline_seconds": 1.0}
    lost = play_in_process(quick_settings(tmp_path / "lost", repair=True, **settings), 3, lose)
    plain = play_in_process(quick_settings(tmp_path / "plain", **settings), 3)
    assert all(torch.equal(lost.network(1)[name], tensor) for name, tensor in plain.network(1).items())
    assert "units keep the means and deviations of the mean" in one_round(lost).notes[0]


def test_repair_asks_about_one_network_at_a_time(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def look(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == REPAIR and partition == 0:
            asked.append(list(reply.content.array_records))
        return reply

    play_in_process(quick_settings(tmp_path, repair=True, epochs=1, probe_points=0), 3, look)
    assert asked == [["site-3"], ["site-eu"], ["site-us"], ["merged"]]


def test_the_goals_of_repair_are_of_every_network_on_the_samples_of_all_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    def spy(ends: Sequence[Moments], weights: Sequence[float]) -> dict[str, Tensor]:
        seen.append([float(end["fc.count"]) for end in ends])
        return goals_between(ends, weights)

    monkeypatch.setattr(recalibration, "goals_between", spy)
    settings = quick_settings(tmp_path, repair=True, split="dirichlet", epochs=1, probe_points=0)
    weights = list(one_round(play_in_process(settings, 3)).weights.values())
    assert seen == [[sum(weights)] * 3]


def test_repair_weighs_sites_as_their_mean_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def spy(ends: Sequence[Moments], weights: Sequence[float]) -> dict[str, Tensor]:
        seen.append(list(weights))
        return goals_between(ends, weights)

    monkeypatch.setattr(recalibration, "goals_between", spy)
    settings = quick_settings(tmp_path, repair=True, split="dirichlet", epochs=1, probe_points=0)
    weights = list(one_round(play_in_process(settings)).weights.values())
    assert weights[0] != weights[1]
    assert seen == [[weight / sum(weights) for weight in weights]]
