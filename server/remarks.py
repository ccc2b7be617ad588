"""What the operator should know of settings beside the network that they are for, before anybody trains."""

from collections.abc import Sequence

from torch import nn

from alignment.batch_norm import batch_norms
from alignment.feature_size import scales_features
from alignment.moments import layers_of
from alignment.repair import unit_moments
from models import head_name
from server.recalibration import example_of
from strategies.admission import VARIANCE
from strategies.noise import drowned
from strategies.settings import Settings


def network_remarks(model: nn.Module, settings: Settings) -> list[str]:
    """A line for each setting that this network may not bear; `strategies.idle.remarks` looks at settings alone."""
    return [
        *_on_stale_statistics(model),
        *_on_solved_head(model, settings),
        *_on_repair(model, settings),
        *drowned(settings, sum(each.numel() for each in model.parameters())),
    ]


def unread_remarks(tensors: Sequence[str], remedy: str) -> list[str]:
    """A line where there are `alignment.unread.unread` tensors; ``remedy`` says how to have them read."""
    if not tensors:
        return []
    which = f"{tensors[0]!r}, as {len(tensors) - 1} more, is" if len(tensors) > 1 else f"{tensors[0]!r} is"
    return [
        f"tensor {which} without a say in the outputs of the traced run and stays; what feeds it may move, and then "
        f"it does not fit any more: {remedy}"
    ]


def _on_stale_statistics(model: nn.Module) -> list[str]:
    """A line where layers other than BatchNorm keep running statistics, which a merge leaves at the mean of the sites'.

    InstanceNorm's variance is the mean of the variances within samples: no moments of all values together give it.
    """
    renewed = batch_norms(model)
    buffers = (name.rpartition(".") for name, _ in model.named_buffers(remove_duplicate=False))
    stale = [layer for layer, _, part in buffers if part == VARIANCE and layer not in renewed]
    if not stale:
        return []
    which = f"{stale[0]!r} ({type(model.get_submodule(stale[0])).__name__})"
    return [
        f"setting 'model': a merge leaves the running statistics of {which}{_and_more(stale)} at the mean of the "
        "sites' own; only BatchNorm's are recomputed. Have such layers keep none (track_running_stats = False), or use "
        "BatchNorm"
    ]


def _and_more(names: Sequence[str]) -> str:
    return f", and of {len(names) - 1} more," if len(names) > 1 else ""


def _on_solved_head(model: nn.Module, settings: Settings) -> list[str]:
    """A line where later rounds may not bear a solved last layer.

    Features that nothing normalises shrink in every mean, and the solved layer grows by as much: from the third round
    on training goes astray. A norm before or between the hidden layers does not help the layers behind it. REPAIR gives
    features their size back.
    """
    if settings.rounds == 1 or not settings.in_round(first=False).solves_head or settings.repair:
        return []
    if not scales_features(model, head_name(model), example_of(settings)):
        return []
    return [
        f"setting 'head' = {settings.head!r}: in a network without normalisation behind its last hidden layer each "
        "mean makes features smaller and the solved last layer larger, until later rounds may diverge; set repair = "
        "true, head = 'mean', later-merge = 'mean' or rounds = 1"
    ]


def _on_repair(model: nn.Module, settings: Settings) -> list[str]:
    """A line where REPAIR corrects the last layer alone, which `head` then solves anew."""
    if not settings.repair or not settings.solves_head:
        return []
    if layers_of(unit_moments(model, [example_of(settings)])) != [head_name(model)]:
        return []
    return [
        f"setting 'repair' = true changes nothing: behind the last BatchNorm of this network is its last layer alone, "
        f"which head = {settings.head!r} solves anew; leave repair out"
    ]
