"""A reference whose tensors are finite and whose activations are not: nobody who aligns to it fails, or is blamed."""

from pathlib import Path

import pytest
import torch
from flwr.app import Message

from alignment import match_activations, match_weights
from alignment.spec import State
from client.aligning import match_at_site, network_spec
from client.app import app
from client.bench import Bench, set_up
from models import Architecture, build
from server.summary import read_rounds
from strategies.protocol import ALIGN, N_EXAMPLES, NETWORK, TRAIN
from tests.attacks.federation import RESNET, fail
from tests.inprocess import InProcessGrid, Tamper, play_in_process, play_in_vain, quick_settings

QUICK: dict[str, object] = {**RESNET, "epochs": 1, "later_epochs": 1, "probe_points": 0, "matching_samples": 64}
# Finite each, and admitted: what runs is divided by almost nothing, layer after layer.
STATISTICS = {"running_mean": -3e38, "running_var": 0.0}


def overflowing(state: State) -> dict[str, torch.Tensor]:
    """``state`` with such statistics."""
    return {
        name: torch.full_like(tensor, STATISTICS[part]) if (part := name.rpartition(".")[2]) in STATISTICS else tensor
        for name, tensor in state.items()
    }


def bench_of(directory: Path, **changes: object) -> Bench:
    settings = quick_settings(directory, **{**QUICK, **changes})
    return set_up(InProcessGrid(app, settings, 2).context(0))


@pytest.mark.parametrize("site_matching", ["joint", "activations", "then-weights"])
def test_weights_alone_align_to_it(tmp_path: Path, site_matching: str) -> None:
    bench = bench_of(tmp_path, site_matching=site_matching)
    architecture = Architecture(*bench.settings.network)
    reference, own = (build(architecture, seed).state_dict() for seed in (1, 2))
    spec, broken = network_spec(architecture), overflowing(reference)
    found, expected = match_at_site(bench, spec, broken, own), match_weights(spec, broken, own)
    assert any(expected.moved.values())
    assert all(torch.equal(found.permutation[group], expected.permutation[group]) for group in expected.permutation)


def test_activations_that_are_no_numbers_are_not_read(tmp_path: Path) -> None:
    """In double precision too: the root of a negative variance is none."""
    bench = bench_of(tmp_path)
    spec = network_spec(Architecture(*bench.settings.network))
    state = bench.model.state_dict()
    broken = {name: tensor * (-1 if name.endswith("running_var") else 1) for name, tensor in state.items()}
    inputs, _ = next(iter(bench.data.train.batches(32, bench.device)))
    assert not any(match_activations(spec, bench.model, broken, state, [inputs]).moved.values())


def larger(tamper: Tamper) -> Tamper:
    """The first site says that it has most samples: it is the reference until it is unfit."""

    def say(partition: int, reply: Message) -> Message | None:
        for record in reply.content.metric_records.values() if partition == 0 and reply.has_content() else ():
            if N_EXAMPLES in record:
                record[N_EXAMPLES] = 10**6
        return tamper(partition, reply)

    return say


class Failing:
    """Sites of these numbers that answer with an error when they are to align to the first site's network."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = partitions
        self.reference = -1

    def __call__(self, partition: int, reply: Message) -> Message:
        """Keeps in mind whose network was asked for."""
        if reply.metadata.message_type == NETWORK:
            self.reference = partition
        if reply.metadata.message_type == ALIGN and self.reference == 0 and partition in self.partitions:
            fail(reply)
        return reply


SMALL: dict[str, object] = {"epochs": 1, "later_epochs": 1, "width": 16, "probe_points": 0, "align_at": "both"}


@pytest.mark.parametrize("resumed", [False, True], ids=["in one go", "resumed"])
def test_a_reference_that_most_cannot_align_to_is_not_chosen_again(tmp_path: Path, resumed: bool) -> None:
    settings = quick_settings(tmp_path, **SMALL, rounds=3, min_sites=3)
    if resumed:
        play_in_vain(settings.model_copy(update={"rounds": 1}), 3, larger(Failing(1, 2)))
    void, *merged = read_rounds(play_in_process(settings, 3, larger(Failing(1, 2))))
    assert (void.outcome, void.reference, void.unfit) == ("void", "site-us", ["site-us"])
    why = "2 of 2 sites answered with an error when they were to align to it"
    assert void.notes == [f"site-us is the last to be the reference again: {why}"]
    assert [record.outcome for record in merged] == ["merged"] * 2
    assert merged[0].reference == "site-3"


def test_one_of_two_that_cannot_align_says_nothing_of_the_reference(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **SMALL, rounds=3, min_sites=3)
    failing = Failing(1)

    def once(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN and reply.metadata.group_id == "2":
            failing.partitions = ()
        return failing(partition, reply)

    void, merged, _ = read_rounds(play_in_process(settings, 3, larger(once)))
    assert (void.outcome, void.unfit, void.notes) == ("void", [], [])
    assert (merged.outcome, merged.reference) == ("merged", "site-us")
