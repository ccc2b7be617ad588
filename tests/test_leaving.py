"""What leaves the sites is counted by kind, and is what the run's settings call for."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message

from server.records import TrafficRecord
from server.summary import read_rounds
from strategies import protocol
from strategies.leaving import BY_QUESTION, IN_PARTS, KINDS, kind_of, network_words
from strategies.protocol import ALIGN, DESCRIBE, NETWORK, TRAIN
from strategies.settings import Settings, parse_settings
from tests.inprocess import Tamper, honest, play_in_process, play_in_vain, quick_settings

PRIVATE: dict[str, object] = {"align_at": "site", "start": "shared", "probe_points": 0, "min_sites": 3}
SMALL: dict[str, object] = {"width": 8, "depth": 1, "epochs": 1}
USUAL = {"network", "counts", "held-out-sums"}


def traffic(settings: Settings, tamper: Tamper = honest) -> list[TrafficRecord]:
    """Of each site, in the first round."""
    store = play_in_process(settings, settings.min_sites, tamper)
    return list(read_rounds(store)[0].traffic.values())


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"probe_points": 0}, ""),
        ({"norm": "batch"}, "moments line-sums"),
        ({"align_at": "both"}, "permutation matching line-sums"),
        ({"align_at": "site", "probe_points": 0, "start": "shared"}, "matching"),
        ({"align_at": "site", "baselines": True}, "permutation matching class-counts line-sums"),
        ({"head": "counts", "probe_points": 0}, "class-counts"),
        ({"head": "ridge", "probe_points": 0}, "feature-sums"),
        ({"head": "logistic", "probe_points": 0}, "feature-sums gradients"),
        ({"merge": "least-squares", "probe_points": 0}, "gram-matrices"),
        ({"merge": "sequential", "probe_points": 0}, "output-sums"),
        ({"mix": "search", "probe_points": 0}, "line-sums"),
        ({"repair": True, "probe_points": 0}, "unit-moments"),
        ({**PRIVATE, "privacy": "clipping", "norm": "batch"}, "moments"),
    ],
    ids=str,
)
def test_what_comes_is_what_the_settings_call_for_and_nothing_else(
    tmp_path: Path, changes: dict[str, object], more: str
) -> None:
    settings = quick_settings(tmp_path, **{**SMALL, **changes})
    found = traffic(settings)
    called_for = {kind.name for kind in KINDS if not kind.lacks(settings)}
    for site in found:
        assert sum(site.kinds.values()) == site.received
        assert site.kinds.keys() <= called_for
    assert {name for site in found for name in site.kinds} == USUAL | set(more.split())


def test_a_masked_network_is_no_network(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **{**SMALL, **PRIVATE, "privacy": "secure-aggregation"})
    for site in traffic(settings):
        assert set(site.kinds) == {"masked-network", "held-out-sums"}
        assert sum(site.kinds.values()) == site.received


def test_the_bytes_of_a_round_that_came_to_nothing_count_too(tmp_path: Path) -> None:
    def failing(partition: int, reply: Message) -> Message | None:
        return None if reply.metadata.message_type == TRAIN and partition else reply

    store = play_in_vain(quick_settings(tmp_path, round_deadline_seconds=0.5, **SMALL), 2, failing)
    (record,) = read_rounds(store)
    assert sorted(map(sorted, (site.kinds for site in record.traffic.values()))) == [[], ["counts", "network"]]


def test_what_nobody_asked_for_is_told_apart(tmp_path: Path) -> None:
    def more(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN and not partition:
            reply.content["diary"] = ConfigRecord({"page": "x" * 100})
        return reply

    sites = traffic(quick_settings(tmp_path, **SMALL), more)
    assert sorted(site.kinds.get("other", 0) for site in sites) == [0, 104]


def test_every_answer_has_a_kind() -> None:
    messages = {value for name, value in vars(protocol).items() if name.isupper() and str(value).startswith("query.")}
    assert messages | {TRAIN, "evaluate"} == {*BY_QUESTION, TRAIN, NETWORK, ALIGN, DESCRIBE}
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert {*IN_PARTS.values(), *(kind.name for kind in BY_QUESTION.values())} <= set(names)
    assert kind_of(parse_settings({}), TRAIN, "diary", "page") == "other"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "as it was trained"),
        ({"align-at": "site", "start": "shared"}, "with its units in the reference's order"),
        ({"align-at": "site"}, "that of the reference's site also as it was trained"),
        ({"align-at": "site", "reference": "medoid"}, "that of every site also as it was trained"),
        ({"align-at": "site", "baselines": True}, "with the permutation, also as it was trained"),
    ],
)
def test_it_is_told_how_networks_go_out(config: dict[str, object], words: str) -> None:
    assert network_words(parse_settings(config)).endswith(words)
