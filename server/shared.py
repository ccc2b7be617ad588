"""Tensors that a network has under several names: what is solved for one must not be lost under another."""

from collections.abc import Iterator

from torch import nn

from alignment.channels import PARTS, channel_axes
from alignment.least_squares import gram_sizes
from models import head_name
from server.recalibration import example_of
from strategies.errors import SettingsError
from strategies.settings import Settings


def check_shared(model: nn.Module, settings: Settings) -> None:
    """Raises `SettingsError` where the run would write a tensor that the network also has under another name.

    A state has it twice. Written under one name, it would come back as it was under the other, or change a layer that
    nobody solved.
    """
    names: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel():
            names.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    shared = {name: group for group in names.values() if len(group) > 1 for name in group}
    for key, instead, written in _written(model, settings) if shared else ():
        if written in shared:
            (other, *_) = [name for name in shared[written] if name != written]
            raise SettingsError(
                f"setting {key!r}: the run would write {written!r}, which is {other!r} too. Set {instead}, or give the "
                "network a layer of its own for each name."
            )


def _written(model: nn.Module, settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Each tensor that the run writes after the mean, with the setting that asks for it and what to set instead."""
    example = example_of(settings)
    if settings.head != "mean":
        yield from (("head", "head = 'mean'", f"{head_name(model)}.{part}") for part in PARTS)
    if settings.variants:
        yield from (("variants", "variants = false", f"{head_name(model)}.{part}") for part in PARTS)
    layers = {"merge": gram_sizes(model, example)} if settings.merge != "mean" else {}
    if settings.repair:
        layers["repair"] = channel_axes(model, example)
    for key, instead in (("merge", "merge = 'mean'"), ("repair", "repair = false")):
        yield from ((key, instead, f"{layer}.{part}") for layer in layers.get(key, ()) for part in PARTS)
    # Of every network that keeps them, statistics are renewed.
    statistics = [name for name in model.state_dict() if name.endswith(("running_mean", "running_var"))]
    yield from (("model", "another model", name) for name in statistics)
