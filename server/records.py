"""What the run store says of a round: the lines of ``rounds.jsonl``. Losses are nats, ratios 0..1."""

from pydantic import BaseModel, Field

from alignment.barrier import DEFINITION, LossSums


class Record(BaseModel, frozen=True):
    """Plain data, written once."""


class Score(Record, frozen=True):
    """How a network does on the union of held-out samples."""

    accuracy: float
    loss: float
    count: int

    @classmethod
    def of(cls, sums: LossSums) -> "Score":
        """The means of ``sums``."""
        return cls(accuracy=sums.correct / sums.count, loss=sums.loss / sums.count, count=sums.count)


class PathRecord(Record, frozen=True):
    """Loss and accuracy on the straight line between two networks, and its barrier."""

    lambdas: list[float]
    losses: list[float]
    accuracies: list[float]
    barrier: float


class SitePaths(Record, frozen=True):
    """The line from the reference to one site's network as it was trained, and to the same network aligned.

    A site that aligns itself keeps to itself how its network was.
    """

    naive: PathRecord | None
    aligned: PathRecord


class Paths(SitePaths, frozen=True):
    """Both lines."""

    naive: PathRecord


class MatchingRecord(Record, frozen=True):
    """How a site's network was matched to the reference, and what it took: at the site, by its own word, and here."""

    objective: float
    gain: float
    sweeps: int
    converged: bool
    moved: dict[str, float]
    seconds: float = 0.0


class RefusedRecord(Record, frozen=True):
    """A reply that was left out."""

    site: str
    reason: str
    detail: str


class BarrierRecord(Record, frozen=True):
    """The greatest barrier over the sites, without (where that is known) and with permutation."""

    naive: float | None
    aligned: float
    definition: str = DEFINITION


class GuardRecord(Record, frozen=True):
    """Whether a site's alignment was kept, and the losses that decided it: where the mean with the reference lies.

    ``decision`` is "unmoved" (nothing to align), "aligned", "undone" or "unseen": kept, with nothing to judge it by.
    """

    decision: str
    gain: float
    naive_loss: float | None = None
    aligned_loss: float | None = None


class HeadRecord(Record, frozen=True):
    """The merged network with its last layer by ridge and by logistic regression, and which of them was ``kept``.

    ``trips`` were asked; ``logistic`` is empty where not one was answered by all.
    """

    kept: str
    trips: int
    ridge: Score
    logistic: Score | None


class MixStep(Record, frozen=True):
    """A step of the search for the best mixture: λ towards a site's network, of one stage or (empty) of all.

    ``before`` is the loss at λ = 0, ``loss`` that at the λ taken, the least on the line. A last step with λ = 1 says
    that the site's network as it is has less loss than what the search came to; ``before`` is empty if that has none.
    """

    towards: str
    stage: str
    lam: float
    loss: float
    before: float | None


class TrafficRecord(Record, frozen=True):
    """Bytes to and from one site, by the server's count, in all messages of a round."""

    sent: int
    received: int


class RoundRecord(Record, frozen=True):
    """One finished round. ``outcome`` is "merged", or "void" when too few sites answered: the model is unchanged.

    own                   the network that each site sent, on its own held-out samples
    baselines             in the first round that merged, other networks on the union: each site alone, and more
    notes                 what became of the round otherwise than the settings ask for
    missing               the sites that took part before and were not there
    variance              by BatchNorm layer, the variance of the merged network's activations over that of its ends
    recalibration_samples the training samples that the merged network's statistics were recomputed on
    inputs_sha256         of each admitted network as it came, of the safetensors file with its tensors
    checkpoint_sha256     of the merged network's file
    """

    round: int
    outcome: str
    reference: str
    weights: dict[str, float]
    refused: list[RefusedRecord] = Field(default_factory=list[RefusedRecord])
    matchings: dict[str, MatchingRecord]
    merged: Score | None = None
    own: dict[str, Score] = Field(default_factory=dict[str, Score])
    baselines: dict[str, Score] = Field(default_factory=dict[str, Score])
    guard: dict[str, GuardRecord] = Field(default_factory=dict[str, GuardRecord])
    mix: list[MixStep] = Field(default_factory=list[MixStep])
    head: HeadRecord | None = None
    notes: list[str] = Field(default_factory=list[str])
    paths: dict[str, SitePaths] = Field(default_factory=dict[str, SitePaths])
    barrier: BarrierRecord | None = None
    traffic: dict[str, TrafficRecord] = Field(default_factory=dict[str, TrafficRecord])
    missing: list[str] = Field(default_factory=list[str])
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    variance: dict[str, float] = Field(default_factory=dict[str, float])
    recalibration_samples: int = 0
    inputs_sha256: dict[str, str] = Field(default_factory=dict[str, str])
    checkpoint_sha256: str = ""
    checkpoint_bytes: int = 0
    finished: float = 0.0
