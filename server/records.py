"""What the run store says of a round: the lines of ``rounds.jsonl``. Losses are nats, ratios 0..1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    # Who reads records, such as the exporter, need not hold torch in memory.
    from alignment import Matching
    from alignment.barrier import Barrier, LossSums
    from strategies.alignments import Reported


class Record(BaseModel, frozen=True):
    """Plain data, written once. What stands below a field is its line in docs/rounds.md."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Score(Record, frozen=True):
    """How well a network does on held-out samples."""

    accuracy: float
    """Share of right answers."""
    loss: float
    """Mean of −log p of the right class."""
    count: int
    """The number of samples."""

    @classmethod
    def of(cls, sums: LossSums) -> Score:
        """The means of ``sums``."""
        return cls(accuracy=sums.correct / sums.count, loss=sums.loss / sums.count, count=sums.count)


class PathRecord(Record, frozen=True):
    """Loss and accuracy on the straight line between two networks, and its barrier."""

    lambdas: list[float]
    """The points: 0 is the reference, 1 the site's network."""
    losses: list[float]
    """The loss at each."""
    accuracies: list[float]
    """The accuracy at each."""
    barrier: float
    """The greatest excess of the loss over the mean of both ends."""

    @classmethod
    def of(cls, path: Barrier) -> PathRecord:
        """The path with its barrier, without the definition of it."""
        lambdas, losses, accuracies = map(list[float], (path.lambdas, path.losses, path.accuracies))
        return cls(lambdas=lambdas, losses=losses, accuracies=accuracies, barrier=path.barrier)

    @property
    def highest(self) -> float:
        """The λ of the greatest loss: that of an end, where no point in between is above it."""
        last = len(self.losses) - 1
        return self.lambdas[max((0, last, *range(1, last)), key=self.losses.__getitem__)]


class SitePaths(Record, frozen=True):
    """The line from the reference to one site's network."""

    naive: PathRecord | None
    """The line to the network as it was trained; null where the site aligns it and does not tell how it was."""
    aligned: PathRecord
    """The line to the same network after alignment."""


class Paths(SitePaths, frozen=True):
    """Both lines."""

    naive: PathRecord
    """To the network as it was trained."""


class MatchingRecord(Record, frozen=True):
    """How a site's network was matched to the reference; with `align-at = site`, as the site reports it."""

    objective: float
    """Σ ⟨reference, permuted⟩ over all permuted tensors."""
    gain: float
    """The objective minus that of the identity."""
    sweeps: int
    """Passes over the groups of units; 0: the site's proposal was taken, or there is nothing to permute."""
    converged: bool
    """Whether the last pass changed nothing."""
    moved: dict[str, float]
    """By group, the share of its units that changed place."""
    seconds: float | None = None
    """The time of the matching, at site and server; null in the card of a merge, where the same networks must give the
    same record."""

    @classmethod
    def of(cls, matching: Matching | Reported, seconds: float | None = None) -> MatchingRecord:
        """The matching without its permutation."""
        return cls(
            objective=matching.objective,
            gain=matching.gain,
            sweeps=matching.sweeps,
            converged=matching.converged,
            moved=dict(matching.moved),
            seconds=seconds,
        )


class RefusedRecord(Record, frozen=True):
    """A reply that was refused."""

    site: str
    """The site that sent it."""
    reason: str
    """One of [the reasons](exit-codes/README.md#why-a-reply-was-refused)."""
    detail: str
    """What was expected, and what came."""


class BarrierRecord(Record, frozen=True):
    """The greatest barrier over the sites."""

    naive: float | None
    """Without permutation; null where that of one site is unknown."""
    aligned: float
    """With permutation."""
    definition: str
    """The definition of the barrier, in words."""


class GuardRecord(Record, frozen=True):
    """Whether a site's alignment was kept, and the losses that decided it."""

    decision: str
    """`unmoved`: there was nothing to align; `aligned`: the alignment was kept; `undone`: it was taken back; `unseen`:
    it was kept, since nothing was measured to judge it by."""
    gain: float
    """The gain of the matching."""
    naive_loss: float | None = None
    """The loss without the alignment: at the point of the line nearest to the mean with the reference, or, where the
    guard compared the means of all sites' networks, of that mean."""
    aligned_loss: float | None = None
    """The same loss with the alignment."""


class HeadRecord(Record, frozen=True):
    """The merged network with its last layer solved by ridge regression and by logistic regression."""

    kept: str
    """`ridge` or `logistic`: the one with less loss."""
    trips: int
    """How many of the trips every site of the merge answered."""
    ridge: Score
    """The score with ridge regression."""
    logistic: Score | None
    """The score with logistic regression; null where no trip was answered by all sites."""


class MixStep(Record, frozen=True):
    """A step of the search for the network of least loss; with `mix = best` it looks at the ends of lines alone."""

    towards: str
    """Where the line leads: to the network of this site, or to the `mean`, which is what `merge` made of all."""
    stage: str
    """The group of layers that is mixed; empty: all layers."""
    lam: float
    """The λ that was taken: the one of least loss on the line."""
    loss: float
    """The loss at this λ."""
    before: float | None
    """The loss at λ = 0; null if the network that the search reached has no finite loss."""
    as_it_is: bool = False
    """True where this step is no line: the site's network, as it is, had less loss than what the search reached, and
    was taken instead."""


class TrafficRecord(Record, frozen=True):
    """Bytes to and from one site, as the server counts them, in all messages of a round except those of joining."""

    sent: int
    """Bytes to the site."""
    received: int
    """Bytes from the site."""
    kinds: dict[str, int] = Field(default_factory=dict[str, int])
    """How many of the bytes from the site are of which kind: `network`, `masked-network`, `permutation`, `matching`,
    `counts` (of training samples, with the training loss), `class-counts`, `moments` (of BatchNorm), `unit-moments`
    (for `repair`), `feature-sums` (Σφφᵀ, Σφyᵀ), `gradients` (of the last layer), `gram-matrices`, `output-sums` (for
    `merge = sequential`), `held-out-sums`, `line-sums` or `other`, which nobody asked for. A kind that did not come is
    absent; all are in runs of versions that did not count them."""


class RoundRecord(Record, frozen=True):
    """One finished round."""

    round: int
    """The number of the round, from 1."""
    outcome: str
    """`merged` or `void`. A round is void when too few good replies came, or when they gave no usable merge: it is not
    finite, it has no loss, or the secure sum cannot be opened. A void round leaves the model unchanged."""
    reference: str
    """The site whose network the others were aligned to; the lines to their networks begin there, aligned or not.
    `global`: the network that was sent out; `given`: the network of a file; empty in a void round that came to no
    reference."""
    weights: dict[str, float]
    """By site whose network was admitted, its weight in the mean: its training samples, bounded by `max-weight-share`.
    A `rule` other than `mean` does not use the weights."""
    refused: list[RefusedRecord] = Field(default_factory=list[RefusedRecord])
    """The replies to any question of the round that were refused. A network that the site sent earlier in the round,
    and that is in `weights`, still counts."""
    matchings: dict[str, MatchingRecord]
    """By site, how its network was matched."""
    merged: Score | None = None
    """The merged network on the union of held-out samples; null where it diverged, or nobody answered."""
    own: dict[str, Score] = Field(default_factory=dict[str, Score])
    """By site, the network that it sent, on its own held-out samples."""
    baselines: dict[str, Score] = Field(default_factory=dict[str, Score])
    """In the first round that merged, other networks on the union of held-out samples, by
    [name](demo.md#the-rows-of-the-table)."""
    guard: dict[str, GuardRecord] = Field(default_factory=dict[str, GuardRecord])
    """By site, what the guard decided about its alignment."""
    mix: list[MixStep] = Field(default_factory=list[MixStep])
    """With `mix` at `best` or `search`, the steps to the network of least loss, in order."""
    head: HeadRecord | None = None
    """With `head = logistic`, which last layer was kept."""
    notes: list[str] = Field(default_factory=list[str])
    """Where the round went differently from what the settings ask for, and why a void round is void."""
    paths: dict[str, SitePaths] = Field(default_factory=dict[str, SitePaths])
    """By site, the lines from the reference to its network."""
    barrier: BarrierRecord | None = None
    """The barrier of the round."""
    traffic: dict[str, TrafficRecord] = Field(default_factory=dict[str, TrafficRecord])
    """By site, the bytes that went to it and came from it."""
    missing: list[str] = Field(default_factory=list[str])
    """The sites that took part before, and were not there in this round."""
    unfit: list[str] = Field(default_factory=list[str])
    """The sites that become the reference again only if no other can, since the others' replies spoke against their
    networks."""
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    """By phase, the time that it took."""
    variance: dict[str, float] = Field(default_factory=dict[str, float])
    """By BatchNorm layer, the variance of the merged network's activations divided by that of the sites' networks."""
    recalibration_samples: int = 0
    """The number of training samples on which the merged network's statistics were recomputed."""
    inputs_sha256: dict[str, str] = Field(default_factory=dict[str, str])
    """By site, the SHA-256 of the safetensors file with the tensors of its admitted network, as it came."""
    checkpoint_sha256: str = ""
    """The SHA-256 of the merged network's file."""
    checkpoint_bytes: int = 0
    """The size of the merged network's file."""
    finished: float = 0.0
    """When the round ended, in seconds since 1970."""

    @property
    def is_lost(self) -> bool:
        """Whether enough networks came, and what was made of them was none: not finite, or without a loss."""
        return self.outcome == "void" and "recalibrate" in self.seconds
