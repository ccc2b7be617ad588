"""What the operator should know of settings beside the network that they are for, before anybody trains."""

from collections.abc import Sequence

from torch import nn

from alignment.batch_norm import BATCH_NORMS
from strategies.noise import drowned
from strategies.settings import Settings

# What keeps features at their size, whatever a mean does to them; running means and variances are renewed after it.
NORMALISING = (
    *BATCH_NORMS,
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def network_remarks(model: nn.Module, settings: Settings) -> list[str]:
    """A line for each setting that this network may not bear; `strategies.idle.remarks` looks at settings alone."""
    return [*_on_solved_head(model, settings), *drowned(settings, sum(each.numel() for each in model.parameters()))]


def unread_remarks(tensors: Sequence[str], remedy: str) -> list[str]:
    """A line where there are `alignment.unread.unread` tensors; ``remedy`` says how to have them read."""
    if not tensors:
        return []
    which = f"{tensors[0]!r}, as {len(tensors) - 1} more, is" if len(tensors) > 1 else f"{tensors[0]!r} is"
    return [
        f"tensor {which} without a say in the outputs of the traced run and stays; what feeds it may move, and then "
        f"it does not fit any more: {remedy}"
    ]


def _on_solved_head(model: nn.Module, settings: Settings) -> list[str]:
    """A line where later rounds may not bear a solved last layer.

    Without normalisation features shrink in every mean, and the solved layer grows by as much: from the third round on
    training goes astray. REPAIR gives features their size back.
    """
    normalised = any(isinstance(layer, NORMALISING) for layer in model.modules())
    if normalised or settings.rounds == 1 or not settings.solves_head or settings.repair:
        return []
    return [
        f"setting 'head' = {settings.head!r}: in a network without normalisation each mean makes features smaller and "
        "the solved last layer larger, until later rounds may diverge; set repair = true, head = 'mean' or rounds = 1"
    ]
