"""The last layer by logistic regression, from where ridge regression leaves it: one trip for each gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger

from flwr.app import Message, RecordDict
from torch import Tensor, nn

from alignment.channels import key_of
from alignment.errors import StateError
from alignment.heads import GRAM, TARGETS, with_head
from alignment.logistic import GRADIENT, LOSS, Layer, logistic_head
from alignment.moments import pool_moments
from models import head_name
from server.evaluation import evaluate, pool
from server.heads import pooled_features, scaled_heads, solve_layers
from server.records import HeadRecord, Score
from server.sites import Sites
from strategies.decoding import read_state
from strategies.errors import Reason, RefusedReply
from strategies.protocol import LOGISTIC, MERGED, State, to_arrays
from strategies.sums import GRAM_ROUNDING, check_asked, check_finite_sums, check_headers

logger = getLogger("fedrebasin")
RIDGE, FITTED = "ridge", "logistic"


def fit_head(sites: Sites, model: nn.Module, state: State) -> tuple[dict[str, Tensor], HeadRecord | None]:
    """``state`` with its last layer by ridge regression, or by logistic where that has less loss on held-out samples.

    Where a site of the merge does not answer, it goes no further than it came; with no head solved, ``state`` is as it
    was, and there is no record.
    """
    head = head_name(model)
    content = RecordDict({MERGED: to_arrays(state)})
    features = pooled_features(sites, model, content, [MERGED])
    solved = {name: {**state, **layer} for name, layer in solve_layers(sites, model, features).items()}
    scaled = scaled_heads(sites, model, solved)
    if MERGED not in scaled:
        return dict(state), None
    ridge, sums = scaled[MERGED]
    gradients = Gradients(sites, ridge, head, _most_gradient(features[MERGED]))
    start = (ridge[key_of(head, "weight")], ridge[key_of(head, "bias")])
    try:
        layer = logistic_head(start, features[MERGED][GRAM], gradients, sites.settings.head_trips)
    except StateError:
        # Rounding alone does not make sums over samples so: a site sent what only looks like them.
        sites.note("the last layer is that of ridge regression: the sums are no sums over samples")
        layer = start
    heads = {RIDGE: ridge}
    scores = {RIDGE: Score.of(sums)}
    if gradients.trips:
        heads[FITTED] = with_head(ridge, head, *layer)
        # Both anew: a site that is lost by now takes its samples with it.
        found = pool(evaluate(sites, heads))
        scores |= {name: Score.of(each) for name, each in found.items()}
    # Ties keep the first.
    kept = min(scores, key=lambda name: scores[name].loss)
    record = HeadRecord(kept=kept, trips=gradients.trips, ridge=scores[RIDGE], logistic=scores.get(FITTED))
    losses = ", ".join(f"{name} {score.loss:.4f}" for name, score in scores.items())
    logger.info("last layer: loss %s, after %d trips: %s kept", losses, gradients.trips, kept)
    return heads[kept], record


@dataclass
class Gradients:
    """What all sites' samples say of a layer in the place of ``network``'s ``head``.

    most   what no gradient over the same samples is above; see `_most_gradient`
    trips  how many were answered by every site of the merge
    """

    sites: Sites
    network: State
    head: str
    most: Tensor
    trips: int = 0

    def __call__(self, layer: Layer) -> Mapping[str, Tensor] | None:
        """The sums of `alignment.logistic`; None when a site of the merge does not answer, or ``layer`` is none."""
        if not all(bool(part.isfinite().all()) for part in layer):
            return None
        content = RecordDict({MERGED: to_arrays(with_head(self.network, self.head, *layer))})
        answers = self.sites.answers(LOGISTIC, content, _reader(self.most))
        otherwise = f"the last layer is fitted in {self.trips} {'trip' if self.trips == 1 else 'trips'}"
        if not self.sites.all_told(answers, self.sites.merging, otherwise):
            return None
        self.trips += 1
        return pool_moments(list(answers.values()))


def _most_gradient(features: Mapping[str, Tensor]) -> Tensor:
    """√(n Σφ²) for each feature and class: |Σ φ (p − y)| ≤ Σ |φ|, and Cauchy and Schwarz do the rest.

    Twice that, since sites may by now be fewer, and stand for more samples each.
    """
    gram = features[GRAM]
    return 2 * (gram[-1, -1] * gram.diagonal()).sqrt()[:, None].expand_as(features[TARGETS])


def _reader(most: Tensor) -> Callable[[str, Message], dict[str, Tensor]]:
    expected = {LOSS: ("float64", ()), GRADIENT: ("float64", tuple(most.shape))}

    def read(site: str, reply: Message) -> dict[str, Tensor]:
        records = reply.content.array_records
        check_asked(site, records.keys(), [MERGED])
        check_headers(site, records[MERGED], expected, "loss and gradient")
        sums = read_state(site, records[MERGED])
        for name, tensor in sums.items():
            check_finite_sums(site, tensor, f"{name} of the last layer")
        gradient = sums[GRADIENT]
        # Probabilities add up to one, and so do classes.
        if float(sums[LOSS]) < 0 or bool((gradient.sum(1).abs() > GRAM_ROUNDING * gradient.abs().sum(1) + 1e-9).any()):
            raise RefusedReply(Reason.MOMENTS, site, "no samples give these sums", "loss and gradient")
        if bool((gradient.abs() > most).any()):
            raise RefusedReply(Reason.MOMENTS, site, "larger than features of all sites allow", "gradient")
        return sums

    return read
