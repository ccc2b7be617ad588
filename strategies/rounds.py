"""One round at the server: what has come so far, and what its merge was made of."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from alignment.matching import Matching
from alignment.spec import State
from strategies.admission import Admitted
from strategies.alignments import Reported
from strategies.errors import RefusedReply
from strategies.matching import Timed


@dataclass
class Collected:
    """What has come so far in a round. ``reference`` names the site that was chosen before the replies came."""

    reference: str | None = None
    admitted: dict[str, Admitted] = field(default_factory=dict[str, Admitted])
    refused: list[RefusedReply] = field(default_factory=list[RefusedReply])
    matched: dict[str, Timed] = field(default_factory=dict[str, Timed])


@dataclass(frozen=True)
class MergedRound:
    """What one round's merge was made of, for whoever wants to look, by site and in site order.

    raw        the networks as the sites trained them; of a site that sent only what it had aligned there is none
    matchings  how each was brought to the reference; the reference's own site has none
    network    the reference
    seconds    what the matching took, at the site by its own word and here
    """

    reference: str
    network: State
    replies: Mapping[str, Admitted]
    matchings: Mapping[str, Matching | Reported]
    aligned: Mapping[str, State]
    raw: Mapping[str, State]
    refused: Sequence[RefusedReply] = field(default_factory=list[RefusedReply])
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def weights(self) -> dict[str, float]:
        """What each network weighs in the mean."""
        return {site: one.weight for site, one in self.replies.items()}

    @cached_property
    def moved(self) -> frozenset[str]:
        """The sites of whose networks alignment moves a unit."""
        return frozenset(site for site, matching in self.matchings.items() if any(matching.moved.values()))

    @property
    def all_raw(self) -> bool:
        """Whether every network is known as its site trained it."""
        return self.raw.keys() == self.aligned.keys()

    def unmoved(self, sites: Collection[str]) -> "MergedRound":
        """The same with the networks of ``sites`` as they were trained, which must be known."""
        back = {site: self.raw[site] for site in sites}
        left = {site: matching for site, matching in self.matchings.items() if site not in sites}
        return replace(self, aligned={**self.aligned, **back}, matchings=left)
