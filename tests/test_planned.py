"""What a run moves in a round is told before it is played: never less than it moves, and not much more."""

from pathlib import Path

import pytest
from flwr.app import RecordDict

from alignment import derive_spec
from alignment.permutation import identity_permutation
from models import Architecture, build, example_inputs
from server.planned import permutation_bytes, total, traffic
from server.records import TrafficRecord
from server.summary import read_rounds
from server.traffic import size_of
from strategies.alignments import pack_permutation
from tests.inprocess import play_in_process, quick_settings

SMALL: dict[str, object] = {"width": 8, "depth": 2, "epochs": 1, "later_epochs": 1, "rounds": 2}
PRIVATE: dict[str, object] = {"align_at": "site", "start": "shared", "probe_points": 0}


def moved(record: dict[str, TrafficRecord]) -> tuple[int, int]:
    """The most to a site, and from one."""
    return max(each.sent for each in record.values()), max(each.received for each in record.values())


# And the shares of it, to and from a site, that the first round moves at least: what alignment decides is told at its
# most, as is what is told of a permutation, and the guard that has nothing to compare between two sites.
@pytest.mark.parametrize(
    ("changes", "n_sites", "shares"),
    [
        ({}, 2, (0.65, 0.75)),
        ({"align_at": "both", "norm": "batch", "reference": "medoid"}, 3, (0.9, 0.9)),
        ({"align_at": "both", "guard": False}, 2, (0.94, 0.75)),
        ({"align_at": "none"}, 2, (0.94, 0.85)),
        ({"mix": "search", "probe_points": 0}, 2, (0.95, 0.9)),
        ({"mix": "best", "head": "ridge", "norm": "batch", "probe_points": 0}, 3, (0.95, 0.94)),
        ({"mix": "search", "head": "ridge", "norm": "batch", "probe_points": 0}, 3, (0.97, 0.98)),
        ({"merge": "sequential", "head": "ridge", "norm": "batch", "probe_points": 0}, 2, (0.95, 0.95)),
        ({"merge": "least-squares", "head": "logistic", "probe_points": 0}, 2, (0.93, 0.95)),
        ({"mix": "best", "head": "ridge", "later_merge": "mean", "probe_points": 0}, 2, (0.95, 0.9)),
        ({"repair": True, "recalibrate_passes": 2, "norm": "batch", "guard": False}, 2, (0.95, 0.95)),
        ({"align_at": "both", "baselines": True, "variants": True, "guard": False}, 2, (0.97, 0.89)),
        ({**PRIVATE, "privacy": "secure-aggregation"}, 3, (0.65, 0.5)),
        ({**PRIVATE, "privacy": "clipping", "norm": "batch"}, 2, (0.93, 0.75)),
    ],
    ids=str,
)
def test_no_round_moves_more_than_is_told_beforehand(
    tmp_path: Path, changes: dict[str, object], n_sites: int, shares: tuple[float, float]
) -> None:
    settings = quick_settings(tmp_path, **{**SMALL, **changes, "min_sites": n_sites})
    told = traffic(build(Architecture(*settings.network), 0).eval(), settings)
    first, later = (moved(record.traffic) for record in read_rounds(play_in_process(settings, n_sites)))
    most = total(told.first)
    assert shares[0] * most.to_site <= first[0] <= most.to_site
    assert shares[1] * most.from_site <= first[1] <= most.from_site
    most = total(told.later)
    assert later[0] <= most.to_site
    assert later[1] <= most.from_site
    if settings.later_merge == "mean":
        assert most.to_site < total(told.first).to_site / 2


def test_a_further_site_adds_as_much_as_it_is_said_to(tmp_path: Path) -> None:
    settings = [quick_settings(tmp_path, **SMALL, align_at="both", mix="search", min_sites=n) for n in (2, 3, 5)]
    two, three, five = (traffic(build(Architecture(*each.network), 0), each) for each in settings)
    assert total(two.first) + two.further_site[0] == total(three.first)
    assert total(two.later) + two.further_site[1].times(3) == total(five.later)


@pytest.mark.parametrize("model", ["mlp", "resnet20", "gru", "transformer"])
def test_no_permutation_is_larger_than_is_reckoned(model: str) -> None:
    architecture = Architecture(model, (8, 8) if model in ("gru", "transformer") else (1, 8, 8), 10, 8, 0)
    network = build(architecture, 0)
    spec = derive_spec(network, example_inputs(architecture))
    content = RecordDict({"permutation": pack_permutation(identity_permutation(spec))})
    assert 0 < size_of(content) <= permutation_bytes(network)
