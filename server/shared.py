"""Tensors that a network has under several names: what is solved for one must not be lost under another."""

from collections.abc import Iterator

from torch import nn

from alignment.batch_norm import batch_norms
from alignment.channels import PARTS, key_of
from alignment.tied import tied_names
from models import head_name
from strategies.errors import SettingsError
from strategies.settings import Settings


def check_shared(model: nn.Module, settings: Settings) -> None:
    """Raises `SettingsError` where the run would write a tensor that the network also has under another name.

    A state has it twice. Written under one name, it would come back as it was under the other, or change a layer that
    nobody solved. What `merge` and `repair` write is no such tensor: they leave those to the mean.
    """
    shared = tied_names(model)
    for key, instead, written in _written(model, settings):
        if written in shared:
            (other, *_) = [name for name in shared[written] if name != written]
            raise SettingsError(
                f"setting {key!r}: the run would write {written!r}, which is {other!r} too. Set {instead}, or give the "
                "network a layer of its own for each name."
            )


def _written(model: nn.Module, settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Each tensor that the run writes after the mean, with the setting that asks for it and what to set instead."""
    if settings.head != "mean":
        yield from (("head", "head = 'mean'", key_of(head_name(model), part)) for part in PARTS)
    if settings.variants:
        yield from (("variants", "variants = false", key_of(head_name(model), part)) for part in PARTS)
    # Of every network that keeps them, statistics are renewed.
    for layer in batch_norms(model):
        yield from (("model", "another model", key_of(layer, part)) for part in ("running_mean", "running_var"))
