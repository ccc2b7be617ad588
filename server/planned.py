"""What a round moves between the server and one site, before it is played: an upper bound, reckoned from the settings.

Each function here mirrors one of the server that asks sites something, which its docstring names, and counts the same
questions. A test holds them against what runs really moved. What only a round itself decides is taken at its most: that
alignment moves every network, that the search tries every line, that no step ends early.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from flwr.app import Array
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, batch_norms
from alignment.channels import PARTS, key_of
from alignment.heads import TARGETS
from alignment.logistic import GRADIENT, LOSS
from alignment.repair import unit_moments
from models import head_name
from server.heads import feature_shapes, scaled_names, scales
from server.mixing import mixed_stages
from server.phases import PHASES, Holds
from server.probing import FLAT_POINTS
from server.recalibration import example_of, front_of, keeps_statistics
from server.sums import shapes_of
from strategies.layer_sums import BYTES, layer_sums
from strategies.protocol import LAMBDAS, LAYERS, LOG_PRIOR, SCALES
from strategies.settings import Settings

# What an array takes beside its numbers, as it crosses the wire.
HEADER = len(Array(np.zeros(1)).data) - np.zeros(1).nbytes
DOUBLE = 8
# The few words and numbers that go along with a question, or with a network: no more than so many.
REST = 256
# No site's name, and no other name of a network that is asked about, is longer.
NAME = " " * 64
# Flower's keys and shares of keys, for each site that takes part, in each direction.
KEYS = 2000
# What is told of a group of units beside its permutation, its name included.
GROUP = 64


@dataclass(frozen=True)
class Load:
    """Bytes of records to and from one site, without what carries them, in so many questions."""

    to_site: int = 0
    from_site: int = 0
    questions: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.to_site + other.to_site, self.from_site + other.from_site, self.questions + other.questions)

    def less(self, other: "Load") -> "Load":
        """This load without the other."""
        return self + other.times(-1)

    def times(self, number: int) -> "Load":
        """This load so many times."""
        return Load(self.to_site * number, self.from_site * number, self.questions * number)


@dataclass(frozen=True)
class Planned:
    """A round of ``n_sites`` with the network ``model``; ``first`` until one has merged."""

    model: nn.Module
    settings: Settings
    n_sites: int
    first: bool

    def parts(self) -> dict[str, Load]:
        """What moves, by what it is for, in that order; of what the settings do not ask for there is none."""
        s = self.settings.in_round(self.first)
        found = {part: reckon(self) for part, (holds, reckon) in PARTS_OF_A_ROUND.items() if holds(s, self.first)}
        return {part: load for part, load in found.items() if load.questions}

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """The network's tensors."""
        return self.model.state_dict()

    @cached_property
    def network(self) -> int:
        """Bytes of one network."""
        return self.some(self.state)

    def some(self, keys: Iterable[str]) -> int:
        """Bytes of these tensors of a network."""
        return sum(len(key) + HEADER + self.state[key].nbytes for key in keys)

    @property
    def n_led(self) -> int:
        """The sites that are aligned to another network: not that whose own is the reference."""
        led = self.settings.model_copy(update={"reference": self.settings.led_by})
        return self.n_sites - (self.first and not led.reference_is_known)

    @property
    def knows_raw(self) -> bool:
        """Whether the server has every network as it was trained, where alignment may have moved it."""
        return self.settings.align_at == "server" or self.settings.tells_permutations

    def moments(self, until: str | None = None) -> int:
        """Bytes of the moments of one network's statistics; none without BatchNorm."""
        return _doubles(shapes_of(batch_norm_moments, self.model, self.settings.network, until))

    def recalibrated(self, n_networks: int, until: str | None = None) -> Load:
        """`recalibration.recalibrate` of so many networks."""
        moments = self.moments(until)
        if not moments:
            return Load()
        keys = front_of(self.model, self.settings, until) if until is not None else self.state
        return _question(n_networks * self.some(keys), n_networks * moments).times(self.settings.recalibrate_passes)

    def evaluated(self, n_networks: int, n_more: int = 0, more: int = 0) -> Load:
        """`evaluation.evaluate` of so many networks, with ``n_more`` others judged and ``more`` bytes to the site."""
        return _question(n_networks * self.network + more, _sums([NAME] * (n_networks + n_more)))

    def features(self) -> int:
        """Bytes of the sums over the inputs of one network's last layer."""
        return _doubles(feature_shapes(self.model, self.settings.classes))

    def solved(self, n_networks: int) -> Load:
        """`heads.solve_heads` of so many networks."""
        networks = n_networks * self.network
        sums = _question(networks, n_networks * self.features())
        return sums + _question(networks + _scales(), _sums(scaled_names([NAME] * n_networks)))

    def line(self, points: int, solve: bool = False) -> Load:
        """`lines.measure_line` at so many ``points``."""
        names = [str(number) for number in range(points)]
        content = 2 * self.network + len(LAMBDAS) + DOUBLE * points
        found = Load()
        if moments := self.moments():
            found += _question(content, points * moments)
            content += points * self.some(
                key_of(layer, part) for layer in batch_norms(self.model) for part in ("running_mean", "running_var")
            )
        if solve:
            found += _question(content, points * self.features())
            content += points * self.some(key_of(head_name(self.model), part) for part in PARTS) + _scales()
        return found + _question(content, _sums(scaled_names(names) if solve else names))


def trained(plan: Planned) -> Load:
    """`Trips.collect`: training, and the way of the networks to the server; or `secure.secure_mean`."""
    s = plan.settings
    asked = plan.network + REST
    counts = REST + DOUBLE * (s.classes if s.tells_class_counts else 0)
    if s.privacy == "secure-aggregation":
        buffers = dict(plan.model.named_buffers(remove_duplicate=False))
        masked = sum(HEADER + BYTES + BYTES * each.numel() for key, each in plan.state.items() if key not in buffers)
        keys = KEYS * plan.n_sites
        return Load(asked + keys, masked + counts + keys, 4)
    came = plan.network + counts + (permutation_bytes(plan.model) if s.aligns_at_sites else 0)
    if not plan.first or not s.aligns_at_sites or s.reference_is_known:
        return Load(asked, came, 1)
    # The site that the others align to sends its network; they are sent that, and send theirs.
    as_it_is = plan.network if s.reference == "medoid" else 0
    return Load(2 * asked, came + counts + as_it_is, 2)


def probed(plan: Planned) -> Load:
    """`probing.probe_all`: the line to each network as aligned, and as it came."""
    if plan.settings.align_at == "none":
        return plan.line(FLAT_POINTS).times(plan.n_led)
    points = max(plan.settings.probe_points, FLAT_POINTS)
    return plan.line(points).times(plan.n_led * (2 if plan.knows_raw else 1))


def guarded(plan: Planned) -> Load:
    """`guard.guard_mean`: the means with all, some and no alignments."""
    return plan.recalibrated(3) + plan.evaluated(3) if plan.knows_raw else Load()


def layers_solved(plan: Planned, n_times: int = 1) -> Load:
    """`layers.merge_by_least_squares`, so many times."""
    sums = layer_sums(plan.model, example_of(plan.settings), plan.settings, in_sequence=False)
    grams = sum(len(layer) + HEADER + rows * rows * BYTES for layer, rows in sums.chosen.items())
    return _question(plan.network + _named(sums.chosen), grams).times(n_times)


def layers_fitted(plan: Planned) -> Load:
    """`layers.merge_in_sequence`: for each layer the statistics before it, and its sums."""
    sums = layer_sums(plan.model, example_of(plan.settings), plan.settings, in_sequence=True)
    found = Load()
    for layer, rows in sums.chosen.items():
        front = plan.some(front_of(plan.model, plan.settings, layer))
        told = 2 * (len(layer) + HEADER) + rows * (rows + sums.outputs[layer]) * BYTES
        found += plan.recalibrated(1, until=layer) + _question(2 * front + _named([layer]), told)
    return found


def layers(plan: Planned) -> Load:
    """What `merge` asks for in `merge.merge`."""
    return layers_solved(plan) if plan.settings.merge == "least-squares" else layers_fitted(plan)


def searched(plan: Planned) -> Load:
    """`mixing.Search.run`: lines to all networks and the mean, then stage by stage."""
    s = plan.settings
    n_lines = plan.n_led + 1 + len(list(mixed_stages(plan.model, s))) * plan.n_sites
    return plan.line(s.mixture_points, s.solves_head).times(n_lines)


def repaired(plan: Planned) -> Load:
    """`recalibration.repair`: the moments of each network, and of the merged one as corrected."""
    moments = _doubles(shapes_of(unit_moments, plan.model, plan.settings.network))
    # The goals are two numbers for each unit; its moments are these and a count for each layer.
    return _question(plan.network, moments).times(plan.n_sites + 1) + Load(moments)


def head(plan: Planned) -> Load:
    """What `head` asks for in `merge.merge`: the ridge regression, and from there the logistic one."""
    found = plan.solved(1)
    if plan.settings.head == "logistic":
        sums = _doubles({LOSS: (), GRADIENT: feature_shapes(plan.model, plan.settings.classes)[TARGETS]})
        found += _question(plan.network, sums).times(plan.settings.head_trips) + plan.evaluated(2)
    return found


def alone(plan: Planned) -> Load:
    """`baselines.measure_alone`, as itself or in `mixing.Search.settle`."""
    return plan.evaluated(1).times(plan.n_sites)


def baselines(plan: Planned) -> Load:
    """`baselines.measure_baselines`: each network, their means, also with renewed statistics if any, an ensemble."""
    n, n_means = plan.n_sites, 2
    n_measured = n_means * (2 if keeps_statistics(plan.model) else 1)
    priors = n * (len(LOG_PRIOR) + 2 * len(NAME) + DOUBLE * plan.settings.classes)
    return plan.recalibrated(n_means) + plan.evaluated(n + n_measured, n_more=n + 1, more=priors)


def variants(plan: Planned) -> Load:
    """`variants.measure_variants`: of each alignment the mean, by counts, by ridge, and of some by least squares."""
    n_alignments, n_solved = (4, 2) if plan.settings.align_at == "both" else (2, 1)
    n_ridge = n_alignments + n_solved
    n_networks = n_ridge + n_alignments
    found = layers_solved(plan, n_solved) + plan.recalibrated(n_networks) + plan.solved(n_ridge)
    return found + plan.evaluated(n_networks + n_ridge)


# What a round asks of sites, in its order, and when: what is one phase of it, when it has that phase.
PARTS_OF_A_ROUND: Mapping[str, tuple[Holds, Callable[[Planned], Load]]] = {
    "training": (lambda s, first: True, trained),
    "lines": (lambda s, first: s.probes, probed),
    "guard": (PHASES["guard"], guarded),
    "layers": (lambda s, first: s.merge != "mean", layers),
    "search": (PHASES["search"], searched),
    "statistics": (lambda s, first: True, lambda plan: plan.recalibrated(1)),
    "repair": (PHASES["repair"], repaired),
    "head": (lambda s, first: s.solves_head, head),
    "evaluation": (lambda s, first: True, lambda plan: plan.evaluated(1, n_more=1)),
    "alone": (PHASES["alone"], alone),
    "baselines": (PHASES["baselines"], baselines),
    "variants": (PHASES["variants"], variants),
}


def _question(to_site: int, from_site: int) -> Load:
    return Load(to_site + REST, from_site, 1)


def _doubles(shapes: Mapping[str, Sequence[int]]) -> int:
    """Bytes of arrays in double precision."""
    return sum(len(name) + HEADER + DOUBLE * prod(shape) for name, shape in shapes.items())


def _sums(names: Sequence[str]) -> int:
    """Bytes of count, loss and right answers of each of these networks; see `protocol.pack_sums`."""
    return sum(len(name) + 3 * DOUBLE for name in names)


def _scales() -> int:
    return len(SCALES) + DOUBLE * len(scales)


def _named(layers: Collection[str]) -> int:
    return len(LAYERS) + sum(map(len, layers))


def permutation_bytes(model: nn.Module) -> int:
    """Bytes of a permutation and what is told of it, at most: to find the groups of units takes long.

    Each unit of a group is a row of some tensor or, of units in stacked blocks, a row of a block.
    """
    rows = [prod(each.shape[:2]) if each.ndim == 3 else max(each.shape[:2], default=0) for each in model.parameters()]
    return sum(HEADER + GROUP + DOUBLE * n for n, each in zip(rows, model.parameters(), strict=True) if each.ndim > 1)


def total(parts: Mapping[str, Load]) -> Load:
    """All together."""
    return sum(parts.values(), Load())


@dataclass(frozen=True)
class TrafficBound:
    """What rounds of ``n_sites`` move to and from each site, at most, by what it is for.

    first         in each round until one has merged
    later         in each round after that
    further_site  what one site more adds to each of the two
    """

    n_sites: int
    first: Mapping[str, Load]
    later: Mapping[str, Load]
    further_site: tuple[Load, Load]


def traffic(model: nn.Module, settings: Settings) -> TrafficBound:
    """What a run of ``min-sites`` sites moves in a round, at most."""
    n_sites = settings.min_sites
    first, later = (Planned(model, settings, n_sites, each).parts() for each in (True, False))
    more = [total(Planned(model, settings, n_sites + 1, each).parts()) for each in (True, False)]
    return TrafficBound(n_sites, first, later, (more[0].less(total(first)), more[1].less(total(later))))
