"""Never worse than FedAvg, nor than the best site."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import nn

from client.own import load_own
from client.site import Site
from models import Architecture, build
from server.chosen import chosen
from server.guard import guard
from server.mixing import stages
from server.records import PathRecord, RoundRecord, SitePaths
from server.store import RunStore
from server.summary import read_rounds
from strategies import FedRebasin
from strategies.protocol import ARRAYS, EVALUATE, FEATURES, MERGED, METRICS, OWN, PROBE, TRAIN, to_state, unpack_sums
from strategies.rounds import MergedRound
from strategies.tensor_files import write_tensors
from tests.inprocess import play_in_process, quick_settings
from tests.replies import ready, small_spec, small_state, train_reply

RESNET = {"model": "resnet20", "depth": 8, "width": 8, "learning_rate": 0.1, "epochs": 5, "align_at": "site"}

DISJOINT: dict[str, object] = {**RESNET, "split": "disjoint", "align_at": "both", "probe_points": 0}


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record


def path(*losses: float) -> PathRecord:
    lambdas = [k / (len(losses) - 1) for k in range(len(losses))]
    return PathRecord(lambdas=lambdas, losses=list(losses), accuracies=[0.5] * len(losses), barrier=0.0)


def collected() -> MergedRound:
    strategy = ready(FedRebasin(spec=small_spec(), reference="largest"), small_state(0))
    strategy.aggregate_train(1, [train_reply(1, small_state(1), 30), train_reply(2, small_state(2), 10)])
    assert strategy.merged is not None
    assert strategy.merged.moved == {"b"}
    return strategy.merged


def test_an_alignment_that_the_probes_speak_against_is_undone_and_the_mean_is_fedavgs() -> None:
    merged, records = guard(collected(), {"b": SitePaths(naive=path(1, 1.5, 2, 2, 1), aligned=path(1, 1.6, 1, 1, 1))})
    assert (records["b"].decision, records["b"].naive_loss, records["b"].aligned_loss) == ("undone", 1.5, 1.6)
    arrays, _ = FedAvg().aggregate_train(1, [train_reply(1, small_state(1), 30), train_reply(2, small_state(2), 10)])
    assert arrays is not None
    mean, flowers = FedRebasin(spec=small_spec()).mean(merged), to_state(arrays)
    assert all(torch.equal(mean[name], flowers[name]) for name in mean if mean[name].is_floating_point())


def test_an_alignment_that_pays_where_the_mean_lies_is_kept() -> None:
    merged, records = guard(collected(), {"b": SitePaths(naive=path(1, 1.5, 2, 2, 1), aligned=path(1, 1.4, 3, 3, 1))})
    assert records["b"].decision == "aligned"
    assert merged.moved == {"b"}


def test_ends_of_the_line_say_nothing_of_the_mean() -> None:
    """Of three points the nearest to a mean of 10 to 1 is an end, where both lines have the same network."""
    merged = collected()
    large = replace(merged.replies["a"], weight=100.0)
    merged = replace(merged, replies={**merged.replies, "a": large})
    _, records = guard(merged, {"b": SitePaths(naive=path(1, 0.5, 1), aligned=path(1, 9, 1))})
    assert records["b"].decision == "undone"


@pytest.mark.parametrize("paths", [{}, {"b": SitePaths(naive=None, aligned=path(1, 9, 1))}])
def test_what_was_not_seen_is_not_judged(paths: dict[str, SitePaths]) -> None:
    merged, records = guard(collected(), paths)
    assert records["b"].decision == "unseen"
    assert merged.moved == {"b"}


@pytest.mark.parametrize("network", [{}, {"model": "resnet20", "depth": 8, "width": 4}], ids=["mlp", "resnet"])
@pytest.mark.parametrize("align_at", ["server", "site", "both"])
def test_a_shared_start_with_few_steps_gives_fedavgs_bytes(
    tmp_path: Path, align_at: str, network: dict[str, object]
) -> None:
    """Of all parameters; BatchNorm's statistics are those of the sites' samples in the merged network."""
    replies: list[Message] = []

    def keep(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN:
            # Flower's FedAvg takes one record of arrays, and one of metrics.
            kept = copy.copy(reply)
            kept.content = RecordDict({name: reply.content[name] for name in (ARRAYS, METRICS)})
            replies.append(kept)
        return reply

    few: dict[str, object] = {"start": "shared", "epochs": 1, "learning_rate": 0.01, "align_at": align_at}
    settings = quick_settings(tmp_path, **few, **network)
    store = play_in_process(settings, 3, keep)
    assert {record.decision for record in one_round(store).guard.values()} == {"unmoved"}
    # Asked in the order of their names, the sites of this grid answer in it.
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    ours, flowers = store.network(1), to_state(arrays)
    buffers = [name for name in ours if "running" in name or "batches" in name]
    assert bool(buffers) is bool(network)
    assert all(torch.equal(ours[name], flowers[name]) for name in ours.keys() - set(buffers))


def test_sites_measure_their_own_network_once_a_round_however_much_they_are_asked(tmp_path: Path) -> None:
    asked: list[set[str]] = []

    def keep(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == EVALUATE:
            asked.append(set(reply.content.metric_records[METRICS]))
        return reply

    # Of three sites the guard asks about means, and then each is measured alone.
    store = play_in_process(quick_settings(tmp_path, split="iid", width=32), 3, keep)
    assert set[str]().union(*asked) == {MERGED, OWN, "naive", "aligned", *one_round(store).weights}
    assert [names for names in asked if OWN in names] == [{MERGED, OWN}] * 3
    assert one_round(store).own.keys() == one_round(store).weights.keys()


def test_without_the_guard_alignment_stands_whatever_the_probes_see(tmp_path: Path) -> None:
    probed: list[int] = []

    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == PROBE:
            probed.append(partition)
            metrics = reply.content.metric_records[METRICS]
            # The aligned line, which is measured first, is the worse one.
            loss = 900.0 if len(probed) <= 2 else 100.0
            reply.content[METRICS] = MetricRecord({name: [100.0, loss, 50.0] for name in metrics})
        return reply

    decisions: list[str] = []
    for guarded in (True, False):
        probed.clear()
        settings = quick_settings(tmp_path / str(guarded), split="iid", guard=guarded)
        record = one_round(play_in_process(settings, 2, tamper))
        (decided,) = [each.decision for site, each in record.guard.items() if site != record.reference]
        decisions.append(decided)
    assert decisions == ["undone", "unseen"]


@pytest.mark.parametrize(("praised", "decision"), [("naive", "undone"), ("aligned", "aligned")])
def test_of_three_sites_the_mean_itself_decides(tmp_path: Path, praised: str, decision: str) -> None:
    """Sites that see less loss with the one mean than with the other, whatever the lines say."""

    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == EVALUATE and "naive" in reply.content.metric_records[METRICS]:
            reply.content[METRICS] = MetricRecord(
                {name: [100.0, 1.0 if name == praised else 2.0, 50.0] for name in ("naive", "aligned")}
            )
        return reply

    settings = quick_settings(tmp_path / "guarded", split="iid", width=32)
    store = play_in_process(settings, 3, tamper)
    record = one_round(store)
    losses = (0.01, 0.02) if praised == "naive" else (0.02, 0.01)
    seen = [(each.decision, each.naive_loss, each.aligned_loss) for each in record.guard.values()]
    assert seen == [(decision, *losses)] * 2
    plain = play_in_process(quick_settings(tmp_path / "plain", split="iid", width=32, align_at="none"), 3)
    same = all(torch.allclose(store.network(1)[name], each) for name, each in plain.network(1).items())
    assert same is (decision == "undone")


@pytest.mark.parametrize(("aligned", "decision"), [(math.inf, "undone"), (1.0, "aligned")])
def test_where_the_aligned_line_has_no_loss_the_means_themselves_decide(
    tmp_path: Path, aligned: float, decision: str
) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        metrics = reply.content.metric_records.get(METRICS)
        if metrics is not None and reply.metadata.message_type == PROBE:
            probed.append(partition)
            loss = math.inf if len(probed) <= 2 else 100.0
            reply.content[METRICS] = MetricRecord({name: [100.0, loss, 50.0] for name in metrics})
        if metrics is not None and "naive" in metrics:
            losses = {"naive": 2.0, "aligned": aligned}
            reply.content[METRICS] = MetricRecord({name: [100.0, losses.get(name, 1.0), 50.0] for name in metrics})
        return reply

    probed: list[int] = []
    settings = quick_settings(tmp_path, split="iid", width=32, probe_points=3)
    record = one_round(play_in_process(settings, 2, tamper))
    (decided,) = record.guard.values()
    assert (decided.decision, decided.naive_loss) == (decision, 0.02)
    assert decided.aligned_loss == (None if decision == "undone" else 0.01)


@pytest.mark.parametrize(
    ("liked", "decided"),
    [("naive", ["undone"] * 2), ("aligned.all", ["aligned"] * 2), ("aligned", ["aligned", "undone"])],
)
def test_of_two_sites_apart_from_the_reference_the_mean_itself_decides(
    tmp_path: Path, liked: str, decided: list[str]
) -> None:
    """Two networks, each moved towards a third that is not in their mean; the line to one of them speaks against it."""

    def tamper(partition: int, reply: Message) -> Message:
        metrics = reply.content.metric_records.get(METRICS)
        if metrics is not None and reply.metadata.message_type == PROBE:
            probed.append(partition)
            # Of the first site's two lines, the aligned one is worse wherever it is looked at.
            loss = 900.0 if len(probed) <= 2 else 100.0
            reply.content[METRICS] = MetricRecord({name: [100.0, loss, 50.0] for name in metrics})
        if metrics is not None and "naive" in metrics:
            reply.content[METRICS] = MetricRecord({n: [100.0, 1.0 if n == liked else 2.0, 50.0] for n in metrics})
        return reply

    probed: list[int] = []
    reference = tmp_path / "reference.safetensors"
    write_tensors(reference, build(Architecture("mlp", (1, 8, 8), 10, 32, 2, "none"), 5).state_dict())
    settings = quick_settings(tmp_path / "run", split="iid", width=32, reference=str(reference), probe_points=3)
    record = one_round(store := play_in_process(settings, 2, tamper))
    assert sorted(each.decision for each in record.guard.values()) == decided
    # The site whose line speaks against it keeps what was seen there, unless its network is moved in the end.
    kept = liked != "aligned.all"
    assert sorted(each.naive_loss == 1.0 for each in record.guard.values()) == [False, kept]
    plain = play_in_process(quick_settings(tmp_path / "plain", split="iid", width=32, align_at="none"), 2)
    same = all(torch.allclose(store.network(1)[name], each) for name, each in plain.network(1).items())
    assert same is (liked == "naive")
    assert bool(record.notes) is (liked != "aligned.all")


@pytest.mark.parametrize(
    ("silent", "told"),
    [
        ({2}, "alignment is judged by the other sites' samples, without an answer of site-3"),
        ({0, 1, 2}, "alignment is not judged by the mean of all, without an answer of site-3, site-eu, site-us"),
    ],
)
def test_a_guard_that_not_every_site_answers_stands_in_the_rounds_notes(
    tmp_path: Path, silent: set[int], told: str
) -> None:
    """In a first round of networks of their own starts, so that there is something to judge."""

    def tamper(partition: int, reply: Message) -> Message | None:
        asked = reply.content.metric_records.get(METRICS)
        return None if asked is not None and "naive" in asked and partition in silent else reply

    settings = quick_settings(tmp_path, width=16, epochs=1, round_deadline_seconds=0.5)
    record = one_round(play_in_process(settings, 3, tamper))
    assert told in record.notes


def test_the_search_ends_at_worst_at_the_best_site(tmp_path: Path) -> None:
    record = one_round(play_in_process(quick_settings(tmp_path, mix="search", mix_points=5, **RESNET)))
    assert record.merged is not None
    (paths,) = record.paths.values()
    ends = min(paths.aligned.losses[0], paths.aligned.losses[-1])
    assert record.merged.loss < 1.02 * ends
    assert record.merged.loss <= min(record.baselines[site].loss for site in record.weights)
    losses = [step.loss for step in record.mix]
    assert all(step.before is not None and step.loss <= step.before for step in record.mix)
    assert losses == sorted(losses, reverse=True)
    assert [step.stage for step in record.mix][:1] == [""]
    assert {step.stage for step in record.mix} == {"", "conv1", "layer1", "layer2", "layer3", "fc"}


def test_a_site_that_is_better_as_it_is_than_what_the_search_came_to_is_taken(tmp_path: Path) -> None:
    """Renewed statistics and a head of after the search can undo what the search saw."""

    def tamper(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == EVALUATE:
            sums = unpack_sums("", reply.content.metric_records[METRICS]).get("site-eu")
            if sums is not None:
                praise = [float(sums.count), sums.count / 128, float(sums.count)]
                reply.content[METRICS] = MetricRecord({"site-eu": praise})
        return reply

    quick: dict[str, object] = {"mix_points": 3, "epochs": 2, "later_epochs": 1, "probe_points": 0, "rounds": 2}
    settings = quick_settings(tmp_path, mix="search", align_at="server", **quick)
    # The next round goes on from that network, when what the site sent is forgotten.
    store = play_in_process(settings, tamper=tamper)
    record, _ = read_rounds(store)
    assert record.merged is not None
    assert (record.merged.loss, record.merged.accuracy) == (1 / 128, 1.0)
    last = record.mix[-1]
    assert (last.towards, last.stage, last.lam, last.loss) == ("site-eu", "", 1.0, 1 / 128)
    assert [step.as_it_is for step in record.mix] == [False] * (len(record.mix) - 1) + [True]
    assert last.before is not None
    assert last.before > 1 / 128
    assert record.baselines["site-eu"].loss == 1 / 128


def test_a_site_that_is_no_better_as_it_is_is_not_taken(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, mix="search", mix_points=3, epochs=2, baselines=True)
    record = one_round(play_in_process(settings))
    assert record.merged is not None
    assert record.merged.loss <= min(record.baselines[site].loss for site in record.weights)
    assert all(step.before is not None and step.loss <= step.before for step in record.mix)


def test_the_search_over_three_sites_is_no_worse_than_their_mean(tmp_path: Path) -> None:
    losses: dict[str, float] = {}
    for mix in ("mean", "search"):
        settings = quick_settings(tmp_path / mix, mix=mix, mix_points=3, split="iid", width=32)
        merged = one_round(play_in_process(settings, 3)).merged
        assert merged is not None
        losses[mix] = merged.loss
    assert losses["search"] <= losses["mean"]


@pytest.mark.parametrize("n_sites", [2, 3])
def test_the_best_of_the_networks_is_looked_for_at_the_ends_of_lines_alone(tmp_path: Path, n_sites: int) -> None:
    points: set[int] = set()

    def look_on(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == PROBE:
            points.add(len(unpack_sums("", reply.content.metric_records[METRICS])))
        return reply

    settings = quick_settings(tmp_path, mix="best", **{**DISJOINT, "epochs": 1})
    record = one_round(play_in_process(settings, n_sites, look_on))
    assert points == {2}
    others = sorted(set(record.weights) - {record.reference})
    assert [(step.towards, step.stage) for step in record.mix] == [(name, "") for name in (*others, "mean")]
    assert {step.lam for step in record.mix} <= {0.0, 1.0}


def test_the_best_is_what_the_merge_made_where_that_has_least_loss(tmp_path: Path) -> None:
    stores = [
        play_in_process(quick_settings(tmp_path / mix, mix=mix, merge="sequential", head="ridge", **DISJOINT))
        for mix in ("mean", "best")
    ]
    last = one_round(stores[1]).mix[-1]
    assert (last.towards, last.lam) == ("mean", 1.0)
    mean, best = (store.network(1) for store in stores)
    assert all(torch.allclose(mean[name], best[name], rtol=1e-4, atol=1e-5) for name in mean)


def test_the_best_is_a_sites_network_with_everybodys_last_layer_where_that_has_least_loss(tmp_path: Path) -> None:
    """Networks that are not aligned are no network in their mean, but each serves with a last layer for all."""
    settings = quick_settings(tmp_path, mix="best", head="ridge", **{**DISJOINT, "align_at": "none", "depth": 8})
    store = play_in_process(settings)
    record = one_round(store)
    assert [step.lam for step in record.mix][-1] == 0.0
    taken = [step.towards for step in record.mix if step.lam == 1.0]
    name = taken[-1] if taken else str(record.reference)
    own = load_own(Site(name, store.directory / "sites" / name, "digits"))
    assert own is not None
    network = store.network(1)
    same = {key for key, tensor in network.items() if torch.equal(tensor, own[key])}
    assert {key for key in network if key.endswith("weight") and network[key].ndim > 1} - same == {"fc.weight"}
    assert record.merged is not None
    assert record.merged.loss < min(record.baselines[site].loss for site in record.weights)


def test_each_line_of_the_search_has_so_many_points(tmp_path: Path) -> None:
    told: set[int] = set()

    def look_on(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == PROBE:
            told.add(len(unpack_sums("", reply.content.metric_records[METRICS])))
        return reply

    settings = quick_settings(tmp_path, mix="search", mix_points=4, probe_points=0, epochs=1)
    play_in_process(settings, tamper=look_on)
    assert told == {4}


def test_the_search_goes_all_the_way_to_a_network_where_that_has_least_loss(tmp_path: Path) -> None:
    def tamper(partition: int, reply: Message) -> Message:
        metrics = reply.content.metric_records.get(METRICS)
        if reply.metadata.message_type == PROBE and metrics is not None:
            # Each point of a line is better than the one before it.
            reply.content[METRICS] = MetricRecord(
                {name: [100.0, 100.0 - number, 50.0] for number, name in enumerate(metrics)}
            )
        if reply.metadata.message_type == EVALUATE and metrics is not None:
            reply.content[METRICS] = MetricRecord({name: [100.0, 1.0, 50.0] for name in metrics})
        return reply

    quick: dict[str, object] = {"mix_points": 3, "probe_points": 0, "epochs": 1, "align_at": "none"}
    settings = quick_settings(tmp_path, mix="search", **quick)
    store = play_in_process(settings, tamper=tamper)
    record = one_round(store)
    assert {step.lam for step in record.mix} == {1.0}
    # Stage by stage, the last line goes to the last site's network.
    last = record.mix[-1].towards
    own = load_own(Site(last, store.directory / "sites" / last, "digits"))
    assert own is not None
    assert all(torch.equal(store.network(1)[name], tensor) for name, tensor in own.items())


@pytest.mark.parametrize("merge", ["mean", "least-squares"])
def test_the_search_of_two_sites_looks_at_what_the_merge_made(tmp_path: Path, merge: str) -> None:
    """Of sites of different sizes the mean is no point of the line between them."""
    settings = quick_settings(tmp_path, mix="search", merge=merge, mix_points=3, epochs=2)
    record = one_round(play_in_process(settings))
    (other,) = set(record.weights) - {record.reference}
    assert [step.towards for step in record.mix][:2] == [other, "mean"]


def losing(partition: int, number: int) -> Callable[[int, Message], Message | None]:
    """Drops a site's answer number so many about lines, from 1."""
    seen: list[int] = []

    def tamper(site: int, reply: Message) -> Message | None:
        if reply.metadata.message_type == PROBE and site == partition:
            seen.append(site)
            return None if len(seen) == number else reply
        return reply

    return tamper


@pytest.mark.parametrize(("number", "steps"), [(1, 0), (3, 2)])
def test_the_search_ends_where_a_site_is_lost(tmp_path: Path, number: int, steps: int) -> None:
    """With disjoint labels the other site's network alone would do well on what is left."""
    few: dict[str, object] = {"split": "disjoint", "epochs": 2, "probe_points": 0, "round_deadline_seconds": 1.0}
    settings = quick_settings(tmp_path, mix="search", mix_points=3, **few)
    lose, asked = losing(1, number), list[int]()

    def tamper(site: int, reply: Message) -> Message | None:
        asked.extend([site] if reply.metadata.message_type == PROBE else [])
        return lose(site, reply)

    record = one_round(play_in_process(settings, 2, tamper))
    assert len(record.mix) == steps
    # Nor is the other one asked any more.
    assert asked.count(0) == number
    assert [note.partition(",")[0] for note in record.notes][:1] == ["the search ends here"]


@pytest.mark.parametrize("head", ["ridge", "logistic"])
def test_a_last_layer_that_the_search_solved_is_not_said_to_be_unsolved(tmp_path: Path, head: str) -> None:
    asked = list[str]()

    def lose(site: int, reply: Message) -> Message | None:
        if site == 1 and reply.metadata.message_type == FEATURES:
            asked.append(reply.metadata.message_type)
            # Of both lines it tells its sums.
            return reply if len(asked) < 3 else None
        return reply

    few: dict[str, object] = {"epochs": 1, "width": 16, "probe_points": 0, "round_deadline_seconds": 1.0}
    record = one_round(play_in_process(quick_settings(tmp_path, mix="best", head=head, **few), 2, lose))
    assert len(asked) > 2
    assert record.notes[0] == "the last layer stays as it was, without an answer of site-eu"
    assert chosen([record], quick_settings(tmp_path, head=head)).solved


def test_lines_that_were_measured_at_different_sites_are_not_compared(tmp_path: Path) -> None:
    few: dict[str, object] = {"split": "disjoint", "epochs": 2, "round_deadline_seconds": 1.0}
    record = one_round(play_in_process(quick_settings(tmp_path, **few), 2, losing(1, 2)))
    (paths,) = record.paths.values()
    assert paths.naive is None
    (decided,) = [each for each in record.guard.values() if each.decision != "unmoved"]
    # By the means themselves, on the samples of those who are left.
    assert decided.naive_loss is not None
    assert decided.aligned_loss is not None
    assert decided.decision == ("undone" if decided.naive_loss < decided.aligned_loss else "aligned")
    assert any("as it came is not known" in note for note in record.notes)


def test_a_norm_is_mixed_with_the_layer_before_it() -> None:
    model = build(Architecture("resnet20", (1, 8, 8), 10, 4, 8), 0)
    found = dict(stages(model))
    assert list(found) == ["conv1", "layer1", "layer2", "layer3", "fc"]
    assert "bn1.running_var" in found["conv1"]
    assert [key for keys in found.values() for key in keys] == list(model.state_dict())


def convolutional(architecture: Architecture) -> nn.Module:
    """A classifier that has no linear layer."""
    last = nn.Conv2d(8, architecture.classes, 1)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_the_search_mixes_a_network_without_a_linear_layer(tmp_path: Path) -> None:
    network = {"model": "tests.test_guard_and_mix:convolutional", "width": 0, "depth": 0, "epochs": 1}
    settings = quick_settings(tmp_path, **network, mix="search", mix_points=3, probe_points=0)
    record = one_round(play_in_process(settings))
    assert {step.stage for step in record.mix if not step.as_it_is} == {"", "0", "2"}


def test_the_search_does_not_mix_a_layer_that_each_point_solves_anew(tmp_path: Path) -> None:
    quick: dict[str, object] = {"mix_points": 3, "epochs": 1, "probe_points": 0, "align_at": "server"}
    stages: dict[str, set[str]] = {}
    for head in ("mean", "ridge"):
        settings = quick_settings(tmp_path / head, mix="search", head=head, **quick)
        stages[head] = {step.stage for step in one_round(play_in_process(settings)).mix}
    assert stages["mean"] - stages["ridge"] == {"fc"}


def test_the_search_can_solve_the_last_layer_at_each_point(tmp_path: Path) -> None:
    found: dict[str, RoundRecord] = {}
    for mix in ("mean", "search"):
        settings = quick_settings(tmp_path / mix, mix=mix, mix_points=3, head="ridge", **RESNET)
        found[mix] = one_round(play_in_process(settings))
    search, mean = (found[mix].merged for mix in ("search", "mean"))
    assert search is not None
    assert mean is not None
    assert search.loss <= 1.02 * mean.loss
    # The first line's ends are the sites' own networks, each with the head that all data give it.
    before = found["search"].mix[0].before
    assert before is not None
    assert before < found["search"].paths[found["search"].mix[0].towards].aligned.losses[0]
