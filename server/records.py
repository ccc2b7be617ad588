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
    """How a network does on held-out samples."""

    accuracy: float
    """Share of right answers."""
    loss: float
    """Mean of −log p of the right class."""
    count: int
    """On so many samples."""

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


class SitePaths(Record, frozen=True):
    """The line from the reference to one site's network."""

    naive: PathRecord | None
    """To the network as it was trained; unknown where the site aligns it and keeps to itself how it was."""
    aligned: PathRecord
    """To the same network aligned."""


class Paths(SitePaths, frozen=True):
    """Both lines."""

    naive: PathRecord
    """To the network as it was trained."""


class MatchingRecord(Record, frozen=True):
    """How a site's network was matched to the reference: at the site, by its own word, and here."""

    objective: float
    """Σ ⟨reference, permuted⟩ over all permuted tensors."""
    gain: float
    """The objective less that of the identity."""
    sweeps: int
    """Passes over the groups of units; 0: the proposal of the site was taken, or there is nothing to permute."""
    converged: bool
    """Whether the last of them changed nothing."""
    moved: dict[str, float]
    """By group of units, the share that is in another place."""
    seconds: float | None = None
    """What it took; left open where the same networks must give the same record, as in the card of a merge."""

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
    """Whose it was."""
    reason: str
    """One of [the reasons](exit-codes/README.md#why-a-reply-was-refused)."""
    detail: str
    """What was expected and what came."""


class BarrierRecord(Record, frozen=True):
    """The greatest barrier over the sites."""

    naive: float | None
    """Without permutation; unknown where one site's is."""
    aligned: float
    """With permutation."""
    definition: str
    """What was measured, in words."""


class GuardRecord(Record, frozen=True):
    """Whether a site's alignment was kept, and the losses that decided it."""

    decision: str
    """`unmoved`: nothing to align; `aligned`: kept; `undone`; `unseen`: kept, with nothing to judge it by."""
    gain: float
    """That of the matching."""
    naive_loss: float | None = None
    """The loss without it where the mean with the reference lies, or, where that was asked, of the mean of all."""
    aligned_loss: float | None = None
    """The same with it."""


class HeadRecord(Record, frozen=True):
    """The merged network with its last layer by ridge and by logistic regression."""

    kept: str
    """`ridge` or `logistic`: which has less loss."""
    trips: int
    """How many were answered by every site of the merge."""
    ridge: Score
    """How it does with the layer by ridge regression."""
    logistic: Score | None
    """The same by logistic regression; empty where not one trip was answered by all."""


class MixStep(Record, frozen=True):
    """A step of the search for the best mixture."""

    towards: str
    """The site to whose network the line goes, or `mean`, what `merge` made of all."""
    stage: str
    """The group of layers that is mixed; empty: all."""
    lam: float
    """The λ taken: that of least loss on the line."""
    loss: float
    """The loss there."""
    before: float | None
    """The loss at λ = 0; empty if what the search came to has none."""
    as_it_is: bool = False
    """Whether this is no line: the site's network as it is has less loss than what the search came to, and is taken."""


class TrafficRecord(Record, frozen=True):
    """Bytes to and from one site, by the server's count, in all messages of a round but those by which it joins."""

    sent: int
    """To the site."""
    received: int
    """From it."""


class RoundRecord(Record, frozen=True):
    """One finished round."""

    round: int
    """Its number, from 1."""
    outcome: str
    """`merged`; or `void`, when too few good replies came, or what came of them is no merge: not finite, without a
    loss, a sum that cannot be opened. Then the model is unchanged."""
    reference: str
    """The site whose network the others were aligned to, and, aligned or not, where the lines to them begin; `global`:
    the network that was sent out; `given`: a file's; empty where there was none."""
    weights: dict[str, float]
    """By site whose network was admitted, what it weighs in the mean: its training samples, bounded by
    `max-weight-share`. Under another `rule` than `mean` networks are merged without."""
    refused: list[RefusedRecord] = Field(default_factory=list[RefusedRecord])
    """The replies that were refused, to any question of the round; a network that came before, and is in `weights`,
    counts all the same."""
    matchings: dict[str, MatchingRecord]
    """By site, how its network was matched."""
    merged: Score | None = None
    """The merged network on the union of held-out samples; empty where it diverged, or nobody answered."""
    own: dict[str, Score] = Field(default_factory=dict[str, Score])
    """By site, the network that it sent, on its own held-out samples."""
    baselines: dict[str, Score] = Field(default_factory=dict[str, Score])
    """In the first round that merged, other networks on the union, by [name](demo.md#the-rows-of-the-table)."""
    guard: dict[str, GuardRecord] = Field(default_factory=dict[str, GuardRecord])
    """By site, what the guard decided of its alignment."""
    mix: list[MixStep] = Field(default_factory=list[MixStep])
    """With `mix = search`, its steps in their order."""
    head: HeadRecord | None = None
    """With `head = logistic`, which last layer was kept."""
    notes: list[str] = Field(default_factory=list[str])
    """What became of the round otherwise than the settings ask for, and why a merge is none."""
    paths: dict[str, SitePaths] = Field(default_factory=dict[str, SitePaths])
    """By site, the lines to its network."""
    barrier: BarrierRecord | None = None
    """The barrier of the round."""
    traffic: dict[str, TrafficRecord] = Field(default_factory=dict[str, TrafficRecord])
    """By site, bytes."""
    missing: list[str] = Field(default_factory=list[str])
    """The sites that took part before and were not there."""
    unfit: list[str] = Field(default_factory=list[str])
    """The sites that are the last to be the reference again: the others' replies spoke against their networks."""
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    """By phase, what it took."""
    variance: dict[str, float] = Field(default_factory=dict[str, float])
    """By BatchNorm layer, the variance of the merged network's activations over that of its ends."""
    recalibration_samples: int = 0
    """The training samples that the merged network's statistics were recomputed on."""
    inputs_sha256: dict[str, str] = Field(default_factory=dict[str, str])
    """By site, of its admitted network as it came, of the safetensors file with its tensors."""
    checkpoint_sha256: str = ""
    """Of the merged network's file."""
    checkpoint_bytes: int = 0
    """The size of that file."""
    finished: float = 0.0
    """When the round ended, in seconds since 1970."""

    @property
    def is_lost(self) -> bool:
        """Whether enough networks came, and what was made of them was none: not finite, or without a loss."""
        return self.outcome == "void" and "recalibrate" in self.seconds
