"""Running a network no further than what is asked about it."""

from collections.abc import Callable, Collection
from contextlib import ExitStack

import torch
from torch import Tensor, nn


class _ReachedError(Exception):
    """The last call that counts was made."""


def as_far_as(
    network: nn.Module, layers: Collection[str], example: Tensor, hooks: ExitStack
) -> Callable[[Tensor], None]:
    """What runs ``network`` on a batch, until ``hooks`` closes no further than to the last call of ``layers``.

    One run on ``example`` tells how often they are called: a layer that serves at several places is called at each.
    Where none is ever called, the network runs through. Forward hooks that are to see the last call must come before
    the one that ends the run there: ``prepend=True``.
    """
    calls = most = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == most:
            raise _ReachedError

    def run(inputs: Tensor) -> None:
        nonlocal calls
        calls = 0
        try:
            network(inputs)
        except _ReachedError:
            return

    for name in layers:
        hooks.enter_context(network.get_submodule(name).register_forward_hook(count))
    run(example)
    most = calls
    return run


def calls_of(network: nn.Module, layers: Collection[str], example: Tensor) -> list[str]:
    """Those of ``layers`` that ``network`` calls when it runs on ``example``, in the order of their first calls."""
    called: dict[str, None] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name in layers:

            def note(*_: object, name: str = name) -> None:
                called.setdefault(name)

            hooks.enter_context(network.get_submodule(name).register_forward_hook(note))
        network(example)
    return list(called)
