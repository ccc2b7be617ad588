"""Robust rules: what they are by their definitions, and what they withstand."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, Message
from torch import Tensor

from alignment.spec import State
from client.own import load_own
from client.site import Site, simulated_name
from server.summary import read_rounds
from strategies.errors import SettingsError
from strategies.protocol import ARRAYS, TRAIN
from strategies.rules import Rule, robust
from strategies.settings import parse_settings
from strategies.spool import Spool
from tests.attacks.federation import with_first
from tests.inprocess import play_in_process, quick_settings
from tests.replies import small_state

ROBUST: tuple[Rule, ...] = ("trimmed-mean", "median", "krum")
# Small enough that every tensor is read in several pieces.
BLOCK = 11
# The site whose variances lie in the middle of all.
POISONED = 2


def states(count: int) -> list[dict[str, Tensor]]:
    return [small_state(seed) for seed in range(count)]


def by_definition(rule: Rule, values: Tensor, malicious: int) -> Tensor:
    """Of values (networks, numbers), in the plainest way."""
    n = len(values)
    if rule == "median":
        ordered = values.sort(0).values
        return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    if rule == "trimmed-mean":
        return values.sort(0).values[malicious : n - malicious].mean(0)
    scores = [sum(sorted(float((a - b).square().sum()) for b in values)[: n - malicious - 1]) for a in values]
    return values[scores.index(min(scores))]


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("count", [5, 6, 9])
def test_a_rule_is_what_its_paper_says(rule: Rule, count: int, tmp_path: Path) -> None:
    each = states(count)
    names = [name for name, tensor in each[0].items() if tensor.is_floating_point()]
    flat = torch.stack([torch.cat([state[name].double().flatten() for name in names]) for state in each])
    spool = Spool(tmp_path)
    spooled = [spool.add(str(number), state) for number, state in enumerate(each)]
    found = robust(rule, spooled, each[0], 1, BLOCK)
    got = torch.cat([found[name].double().flatten() for name in names])
    assert torch.allclose(got, by_definition(rule, flat, 1), atol=1e-7)
    assert torch.equal(found["steps"], each[0]["steps"])


@pytest.mark.parametrize("rule", ROBUST)
def test_order_and_block_size_do_not_change_the_bytes(rule: Rule) -> None:
    each = states(5)
    expected = robust(rule, each, each[0], 1)
    for order in list(permutations(range(5)))[::17]:
        found = robust(rule, [each[k] for k in order], each[0], 1, BLOCK)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


# Zeros lie between all networks: Krum takes them for the best.
@pytest.mark.parametrize(
    ("rule", "poison"), [*((rule, poison) for rule in ROBUST for poison in (1e6, -1e6)), ("median", 0.0)]
)
def test_one_poisoned_network_of_five_stays_within_the_honest_ones(rule: Rule, poison: float) -> None:
    """The bound: every number lies between the least and the greatest of the honest networks."""
    honest: list[State] = list(states(4))
    poisoned = {name: tensor * 0 + poison if tensor.ndim else tensor for name, tensor in honest[0].items()}
    found = robust(rule, [*honest[:2], poisoned, *honest[2:]], honest[0], 1, BLOCK)
    for name in ("hidden.weight", "hidden.bias", "out.weight"):
        stacked = torch.stack([state[name] for state in honest])
        assert bool((found[name] >= stacked.amin(0) - 1e-6).all())
        assert bool((found[name] <= stacked.amax(0) + 1e-6).all())


def test_poison_with_the_usual_statistics_is_not_the_nearest_network(tmp_path: Path) -> None:
    """Honest networks are alike in their parameters, and each normalises by the variances of its own samples."""
    flip = with_first(lambda array: -10 * array)

    def tamper(partition: int, reply: Message) -> Message:
        arrays = reply.content.array_records.get(ARRAYS)
        if reply.metadata.message_type != TRAIN or arrays is None:
            return reply
        variances = arrays["layers.0.1.running_var"].numpy()
        arrays["layers.0.1.running_var"] = Array(np.full_like(variances, (1000, 100, 550, 400, 700)[partition]))
        if partition == POISONED:
            flip(reply)
        return reply

    network: dict[str, object] = {"norm": "batch", "depth": 1, "width": 16, "split": "iid", "align_at": "none"}
    common: dict[str, object] = {"start": "shared", "min_sites": 5, "probe_points": 0, "max_update_ratio": 0.0}
    store = play_in_process(quick_settings(tmp_path, **network, **common, epochs=1, rule="krum"), 5, tamper)
    sites = [simulated_name(partition) for partition in range(5)]
    own = [load_own(Site(site, store.directory / "sites" / site, "digits")) for site in sites]
    merged = store.network(1)["fc.weight"]
    (taken,) = (number for number, state in enumerate(own) if state and torch.equal(state["fc.weight"], merged))
    assert taken != POISONED


@pytest.mark.parametrize(("rule", "least"), [("trimmed-mean", 3), ("krum", 5)])
def test_too_few_networks_are_an_error(rule: Rule, least: int) -> None:
    with pytest.raises(ValueError, match=f"{rule} withstands 1 of {least} networks or more, got {least - 1}"):
        robust(rule, states(least - 1), small_state(0), 1)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"rule": "krum", "min-sites": 4}, "min-sites"),
        ({"rule": "trimmed-mean", "min-sites": 4, "malicious-sites": 2}, "min-sites"),
        ({"rule": "median", "mix": "search"}, "mix"),
        ({"rule": "median", "merge": "least-squares"}, "merge"),
        ({"rule": "median", "head": "counts"}, "head"),
        ({"rule": "median", "repair": True}, "repair"),
    ],
)
def test_settings_that_go_around_the_rule_are_refused(changes: dict[str, object], wrong: str) -> None:
    with pytest.raises(SettingsError, match=f"setting '{wrong}'.*rule to 'mean'"):
        parse_settings(changes)


def test_of_independent_starts_only_the_median_of_aligned_networks_is_a_network(tmp_path: Path) -> None:
    """Three sites on alike data from their own starts: without alignment the median is near chance."""
    merged = {
        align: play_in_process(
            quick_settings(tmp_path / align, align_at=align, rule="median", epochs=10, width=64, split="iid"), 3
        )
        for align in ("none", "server")
    }
    accuracy = {align: score.accuracy for align, store in merged.items() if (score := read_rounds(store)[0].merged)}
    assert accuracy["none"] < 0.6
    assert accuracy["server"] > accuracy["none"] + 0.2


@pytest.mark.parametrize("rule", ROBUST)
def test_a_poisoned_site_of_five_does_not_move_the_run(tmp_path: Path, rule: Rule) -> None:
    """Of sign-flipped and scaled weights, which no bound refuses here, the merge loses 5 points at most."""
    flip = with_first(lambda array: -10 * array)
    common: dict[str, object] = {
        "start": "shared",
        "min_sites": 5,
        "epochs": 5,
        "width": 64,
        "split": "iid",
        "probe_points": 0,
        "align_at": "server",
        "max_update_ratio": 0.0,
    }

    def accuracy(folder: str, rule: str, *, poisoned: bool) -> float:
        def tamper(partition: int, reply: Message) -> Message:
            if poisoned and partition == 3 and reply.metadata.message_type == TRAIN:
                flip(reply)
            return reply

        settings = quick_settings(tmp_path / folder, **common, rule=rule)
        score = read_rounds(play_in_process(settings, 5, tamper))[0].merged
        assert score is not None
        return score.accuracy

    clean = accuracy("clean", rule, poisoned=False)
    assert accuracy("robust", rule, poisoned=True) > clean - 0.05
    assert accuracy("plain", "mean", poisoned=True) < clean - 0.05
