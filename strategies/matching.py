"""How the server matches the replies of one round: by a look, by the site's own proposal, or by their weights."""

import hashlib
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch

from alignment.matching import Matching, judged
from alignment.permutation import Permutation
from alignment.separation import Separation
from alignment.spec import PermutationSpec, State
from alignment.weight_matching import match_weights
from strategies.admission import Admitted
from strategies.spool import in_memory

AlignAt = Literal["server", "site", "both"]


@dataclass(frozen=True)
class Ways:
    """How a strategy matches, in every round: `FedRebasin`'s arguments of the same names."""

    align_at: AlignAt
    refine: bool
    restarts: int
    seed: int


class Timed(NamedTuple):
    """A matching, and what it took: at the site, by its own word, and here."""

    matching: Matching
    seconds: float


@dataclass
class Matcher:
    """What matches the replies of one round.

    sent   the network that went out
    apart  whether sites started from others
    """

    spec: PermutationSpec
    ways: Ways
    sent: State
    apart: bool
    server_round: int = 0

    def look(self, one: Admitted) -> Timed | None:
        """The matching of a reply that a look proves to need no permutation; else None, and it must be matched."""
        start = time.monotonic()
        if not self.spec.groups or self._proposal(one) is not None:
            return None
        at_home = self._separation.at_home(one.state)
        return None if at_home is None else _timed(one, at_home, start)

    def match(self, reference: State, one: Admitted) -> Timed:
        """The site's own proposal, kept or refined; else the matching of its weights."""
        start = time.monotonic()
        if not self.spec.groups:
            # With nothing to permute the mean is FedAvg's, at FedAvg's cost: no tensor is looked at.
            return _timed(one, Matching({}, 0.0, 0.0, 0, True), start)
        state, proposal = in_memory(one.state), self._proposal(one)
        if proposal is None or self.ways.refine:
            return _timed(one, self.by_weights(reference, one.site, state, proposal), start)
        return _timed(one, judged(self.spec, reference, state, proposal), start)

    def by_weights(self, reference: State, site: str, state: State, start: Permutation | None = None) -> Matching:
        """The matching of one network, whatever else came and in whatever order: its randomness is the site's own."""
        if reference is self.sent and start is None and (at_home := self._separation.at_home(state)) is not None:
            return at_home
        digest = hashlib.sha256(f"{self.ways.seed}/{self.server_round}/{site}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        # A network that was trained from the reference begins at the identity, and belongs there or near; a site's
        # proposal is refined, not looked for anew.
        restarts = 1 if not self.apart or start is not None else self.ways.restarts
        return match_weights(self.spec, reference, state, start, generator, restarts)

    def _proposal(self, one: Admitted) -> Permutation | None:
        return one.permutation if self.ways.align_at == "both" else None

    @cached_property
    def _separation(self) -> Separation:
        """What proves that a network which was trained from the one that went out needs no permutation."""
        return Separation(self.spec, self.sent)


def _timed(one: Admitted, matching: Matching, start: float) -> Timed:
    told = one.reported.seconds if one.reported is not None else 0.0
    return Timed(matching, told + time.monotonic() - start)
