"""Loss, accuracy and barrier of networks that come from files."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from alignment import loss_barrier, write_moments
from alignment.barrier import DEFINITION, loss_sums
from alignment.batch_norm import batch_norm_moments
from alignment.batches import network_with
from cli.bars import Bars
from cli.evidence import Evidence
from cli.networks import Network, State
from server.records import PathRecord, Paths, Score


@dataclass(frozen=True)
class Judge:
    """Measures states of one network on one body of evidence; recalibrates first where there is BatchNorm."""

    network: Network
    evidence: Evidence
    bars: Bars

    @property
    def definition(self) -> str:
        """What the barriers of `paths` are."""
        again = ", BatchNorm recalibrated at each λ, the ends included" if self.network.has_batch_norm else ""
        return DEFINITION + again

    def recalibrated(self, state: State) -> dict[str, Tensor]:
        """``state`` with BatchNorm statistics from the data."""
        data = self.evidence.data
        with self.bars.stretch("recalibrating BatchNorm", len(data)) as advance:
            moments = batch_norm_moments(network_with(self.network.module, state), data.telling(advance))
        return write_moments(state, moments)

    def scores(self, states: Sequence[State]) -> list[Score]:
        """Of each state as it is, with the BatchNorm statistics that it has."""
        held_out = self.evidence.held_out
        with self.bars.stretch("measuring", len(states) * len(held_out)) as advance:
            batches = held_out.telling(advance)
            sums = [loss_sums(self.network.module, state, batches, cross_entropy) for state in states]
        return [Score.of(each) for each in sums]

    def paths(self, reference: State, other: State, aligned: State, points: int) -> Paths:
        """The straight lines from ``reference`` to ``other`` and to ``aligned``, recalibrated at each point."""
        naive = self._path("path, naive", reference, other, points)
        return Paths(naive=naive, aligned=self._path("path, aligned", reference, aligned, points))

    def _path(self, title: str, reference: State, other: State, points: int) -> PathRecord:
        data, held_out = self.evidence.data, self.evidence.held_out
        fresh = len(data) if self.network.has_batch_norm else 0
        with self.bars.stretch(title, points * (len(held_out) + fresh)) as advance:
            again = data.telling(advance) if fresh else None
            batches = held_out.telling(advance)
            path = loss_barrier(self.network.module, reference, other, batches, cross_entropy, points, again)
        return PathRecord.of(path)
