"""The best of the sites' networks and of what was made of them, or on the lines between them.

Along each line the sites' pooled held-out losses are known, and both ends are among its points. So the network that is
chosen line by line is, by these losses, at worst the best of its ends: of the sites' own networks, their statistics
renewed on all data, and of what `merge` and `head` made of them. Last, what became of it is held against the sites'
networks as they are: statistics that suit all data may suit a network less than its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from logging import getLogger

from torch import nn

from alignment.channels import PARTS, key_of
from models import head_name
from server.baselines import measure_alone
from server.lines import Line, measure_line
from server.records import MixStep, Score
from server.sites import Sites
from strategies.names import MIDDLE
from strategies.protocol import State
from strategies.rounds import MergedRound
from strategies.settings import Settings

logger = getLogger("fedrebasin")


@dataclass
class Search:
    """Line after line, towards less loss.

    steps  what was tried and taken
    alone  how each site's network does as it is
    ended  whether a site of the merge did not answer: by the others' samples alone nothing is asked any more
    """

    sites: Sites
    model: nn.Module
    steps: list[MixStep] = field(default_factory=list[MixStep])
    alone: dict[str, Score] = field(default_factory=dict[str, Score])
    ended: bool = False

    def run(self, merged: MergedRound, mean: State) -> State:
        """The best network found, with the statistics of its place; ``mean`` when no line was measured.

        It goes from the reference towards each site's network in turn, and towards the mean of all. With `mix = best`
        that is all, and it looks at the ends of lines alone. Else it goes on with one group of layers after another,
        each towards every site's network. It ends where a site of the merge does not answer.
        """
        current: State = merged.network
        others = {site: state for site, state in merged.aligned.items() if site != merged.reference}
        # The mean of two lies on the line between them, but need not be one of its points.
        for name, end in {**others, MIDDLE: mean}.items():
            current = self._towards(name, "", current, end)
        if not self.steps:
            return mean
        for stage, keys in mixed_stages(self.model, self.sites.settings):
            for name, end in merged.aligned.items():
                partial = {**current, **{key: end[key] for key in keys}}
                current = self._towards(name, stage, current, partial)
        return current

    def settle(self, merged: MergedRound, state: State, score: Score | None) -> tuple[State, Score | None]:
        """``state``, finished, and its score; or the site's own network that has less loss, and its."""
        self.alone = measure_alone(self.sites, merged)
        told = self._all_told("no site's network is taken as it is")
        best = min(self.alone, key=lambda site: self.alone[site].loss, default=None)
        if best is None or not told or (score is not None and not _is_less(self.alone[best], score)):
            return state, score
        own = self.alone[best]
        before = score.loss if score is not None else None
        self.steps.append(MixStep(towards=best, stage="", lam=1.0, loss=own.loss, before=before, as_it_is=True))
        self.sites.note(f"the network of {best} as it is has less loss than any mixture: taken instead")
        # In memory: what a site sent lies in the spool, which a round clears when it is over.
        return dict(merged.aligned[best]), own

    def _towards(self, name: str, stage: str, current: State, end: State) -> State:
        if self.ended:
            return current
        points = self.sites.settings.mixture_points
        lambdas = [number / (points - 1) for number in range(points)]
        solve = self.sites.settings.solves_head
        line = measure_line(self.sites, self.model, (current, end), lambdas, solve)
        # By the samples of some sites alone it would go to their networks.
        self.ended = not self._all_told("the search ends here")
        if line is None or self.ended:
            return current
        step = _step(name, stage, line)
        self.steps.append(step)
        where = f"{stage or 'all layers'}, towards {name}"
        logger.info("mix: %s: λ = %.3g, loss %.4f, at λ = 0 %.4f", where, step.lam, step.loss, step.before)
        return line.state(line.best)

    def _all_told(self, otherwise: str) -> bool:
        """Whether every site of the merge answered the last question; else notes what comes ``otherwise``."""
        return self.sites.all_told(self.sites.answered, self.sites.merging, otherwise)


def _is_less(one: Score, other: Score) -> bool:
    """Whether ``one`` has less loss, on the same samples: of other sites' it would say nothing."""
    return one.count == other.count and one.loss < other.loss


def mixed_stages(model: nn.Module, settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """The groups of layers that a search mixes one by one; with `mix = best` there are none."""
    if settings.mix != "search":
        return
    # Whatever is mixed of these is solved anew at each point.
    solved = [key_of(head_name(model), part) for part in PARTS] if settings.solves_head else []
    yield from ((stage, keys) for stage, keys in stages(model) if not all(key in solved for key in keys))


def stages(model: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """The groups of layers that are mixed as one: the children of ``model``, each with the norms that follow it."""
    state = model.state_dict()
    # A child without a matrix or a kernel belongs to the one before it.
    heavy = {_child(key) for key, tensor in state.items() if tensor.ndim > 1}
    found: dict[str, list[str]] = {}
    name = ""
    for key in state:
        name = _child(key) if _child(key) in heavy or not found else name
        found.setdefault(name, []).append(key)
    yield from found.items()


def _child(key: str) -> str:
    return key.partition(".")[0]


def _step(name: str, stage: str, line: Line) -> MixStep:
    best = line.best
    return MixStep(towards=name, stage=stage, lam=line.lambdas[best], loss=line.losses[best], before=line.losses[0])
