"""The line between two networks: the loss along it on the union of the sites' held-out samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

from alignment.batch_norm import write_moments
from alignment.channels import key_of
from alignment.errors import StateError
from alignment.heads import scaled_head
from alignment.interpolate import interpolate
from alignment.moments import Moments, layers_of
from models import head_name
from server.evaluation import pool, sums_reader
from server.heads import best_scales, scaled_names, scales, solved_layers
from server.recalibration import keeps_statistics, pooled_moments
from server.sites import Sites
from strategies.protocol import (
    CANDIDATE_END,
    CONFIG,
    LAMBDAS,
    PROBE,
    REFERENCE_END,
    SCALES,
    STATISTICS,
    State,
    to_arrays,
)


@dataclass(frozen=True)
class Line:
    """Points λ on the line from one network to another, what was renewed at each, and how each does."""

    reference: State
    candidate: State
    lambdas: Sequence[float]
    renewed: Sequence[State]
    losses: Sequence[float]
    accuracies: Sequence[float]

    @property
    def best(self) -> int:
        """The number of the point of least loss; on ties that nearest to the reference."""
        return min(range(len(self.losses)), key=lambda number: self.losses[number])

    def state(self, number: int) -> dict[str, Tensor]:
        """The network at that point, with what was renewed there."""
        mixed = interpolate(self.reference, self.candidate, self.lambdas[number])
        return {**mixed, **self.renewed[number]}


def measure_line(
    sites: Sites,
    model: nn.Module,
    ends: tuple[State, State],
    lambdas: Sequence[float],
    solve: bool = False,
) -> Line | None:
    """The line between ``ends`` with BatchNorm statistics recomputed at each λ.

    None when no site answered, and where a network on it cannot hold the statistics, as in half precision.
    With ``solve``, the last layer too is solved and scaled anew at each λ (see `server.heads`).
    """
    content = RecordDict({REFERENCE_END: to_arrays(ends[0]), CANDIDATE_END: to_arrays(ends[1])})
    content[CONFIG] = ConfigRecord({LAMBDAS: list(lambdas)})
    renewed: dict[str, State] = {str(number): {} for number in range(len(lambdas))}
    if keeps_statistics(model):
        for name, moments in pooled_moments(sites, model, content, list(renewed)).items():
            try:
                renewed[name] = running_statistics(ends[0], moments)
            except StateError as error:
                sites.note(f"a line is not measured, at λ = {lambdas[int(name)]:g}: {error}")
                return None
            content[STATISTICS + name] = to_arrays(renewed[name])
    if solve:
        solved = solved_layers(sites, model, content, list(renewed))
        if not solved:
            return None
        for name, layer in solved.items():
            renewed[name] = {**renewed[name], **layer}
            content[STATISTICS + name] = to_arrays(renewed[name])
        content[CONFIG] = ConfigRecord({LAMBDAS: list(lambdas), SCALES: scales})
    asked = scaled_names(renewed) if solve else list(renewed)
    sums = pool(sites.answers(PROBE, content, sums_reader(asked)))
    if solve:
        best = best_scales(sums, list(renewed))
        head = head_name(model)
        renewed = {
            name: scaled_head(each, head, best[name][0]) if name in best else each for name, each in renewed.items()
        }
        sums = {name: found for name, (_, found) in best.items()}
    if not all(name in sums for name in renewed):
        return None
    at = [sums[name] for name in renewed]
    losses, accuracies = [each.loss / each.count for each in at], [each.correct / each.count for each in at]
    return Line(*ends, lambdas, list(renewed.values()), losses, accuracies)


def running_statistics(like: State, moments: Moments) -> dict[str, Tensor]:
    """The running means and variances that ``moments`` give, alone: what changes from one λ to the next."""
    layers = layers_of(moments)
    keys = [key_of(layer, part) for layer in layers for part in ("running_mean", "running_var")]
    return {key: tensor for key, tensor in write_moments(like, moments).items() if key in keys}
