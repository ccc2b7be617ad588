"""The loss on the line between two networks, on the union of the sites' held-out samples, and its barrier."""

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

from alignment.barrier import barrier_from_losses
from alignment.batch_norm import write_moments
from alignment.moments import Moments, layers_of
from server.evaluation import pool, read_sums
from server.recalibration import keeps_statistics, pooled_moments
from server.records import PathRecord
from server.sites import Sites
from strategies.protocol import (
    CANDIDATE_END,
    CONFIG,
    LAMBDAS,
    PROBE,
    REFERENCE_END,
    STATISTICS,
    State,
    to_arrays,
)


def probe(
    sites: Sites, model: nn.Module, reference: State, candidate: State, points: int, round_number: int
) -> PathRecord | None:
    """Loss and accuracy at ``points`` values of λ from 0 (reference) to 1 (candidate); None when no site answered.

    BatchNorm statistics are recomputed at every λ, on all sites: what is measured is the network that a merge would be.
    """
    lambdas = [number / (points - 1) for number in range(points)]
    content = RecordDict(
        {
            REFERENCE_END: to_arrays(reference),
            CANDIDATE_END: to_arrays(candidate),
            CONFIG: ConfigRecord({LAMBDAS: lambdas}),
        }
    )
    if keeps_statistics(model):
        for name, moments in pooled_moments(sites, content, round_number).items():
            content[STATISTICS + name] = to_arrays(running_statistics(reference, moments))
    pooled = pool(sites.answers(PROBE, content, round_number, read_sums))
    if len(pooled) < points:
        return None
    at = [pooled[str(number)] for number in range(points)]
    losses, accuracies = [each.loss / each.count for each in at], [each.correct / each.count for each in at]
    found = barrier_from_losses(lambdas, losses, accuracies)
    return PathRecord(lambdas=lambdas, losses=losses, accuracies=accuracies, barrier=found.barrier)


def running_statistics(like: State, moments: Moments) -> dict[str, Tensor]:
    """The running means and variances that ``moments`` give, alone: what changes from one λ to the next."""
    layers = layers_of(moments)
    keys = [f"{layer}.{part}".removeprefix(".") for layer in layers for part in ("running_mean", "running_var")]
    return {key: tensor for key, tensor in write_moments(like, moments).items() if key in keys}
