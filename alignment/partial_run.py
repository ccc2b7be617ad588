"""Running a network no further than what is asked about it."""

from collections.abc import Callable, Collection
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from alignment.batches import network_with
from alignment.channels import named_modules
from alignment.precision import is_continuous


class _ReachedError(Exception):
    """The last call that counts was made."""


def as_far_as(
    network: nn.Module, layers: Collection[str], example: Tensor, hooks: ExitStack
) -> Callable[[Tensor], None]:
    """What runs ``network`` on a batch, until ``hooks`` closes no further than to the last call of ``layers``.

    One run on samples of ``example`` tells how often they are called: a layer that serves at several places is called
    at each. Where none is ever called, the network runs through. Forward hooks that are to see the last call must come
    before the one that ends the run there: ``prepend=True``.
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
    # Two samples, since a norm that keeps no statistics takes those of the batch.
    run(example[:2])
    most = calls
    return run


def calls_of(network: nn.Module, layers: Collection[str], example: Tensor) -> list[str]:
    """Those of ``layers`` that ``network`` calls when it runs on ``example``, in the order of their first calls."""
    return list(dict.fromkeys(every_call(network, layers, example)))


def every_call(network: nn.Module, layers: Collection[str], example: Tensor) -> list[str]:
    """The calls of ``layers`` when ``network`` runs on ``example``, in their order: a name for each."""
    called: list[str] = []
    with ExitStack() as hooks, torch.no_grad():
        for name in layers:

            def note(*_: object, name: str = name) -> None:
                called.append(name)

            hooks.enter_context(network.get_submodule(name).register_forward_hook(note))
        network(example)
    return called


def needed(model: nn.Module, layer: str, example: Tensor) -> list[str]:
    """The tensors of the state of ``model`` on which depends what ``layer`` puts out, in the order of the state.

    Left out are those of modules that are entered for the first time behind its last call, if a trial bears it out:
    with NaN in them, ``layer`` puts out the same on ``example``. Otherwise all.
    """
    network = network_with(model)
    state = network.state_dict()
    spared = {key for key in _behind(network, layer, example) if is_continuous(state[key])}
    found: list[Tensor] = []

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        found.append(output.clone())

    with ExitStack() as hooks, torch.no_grad():
        run = as_far_as(network, [layer], example, hooks)
        hooks.enter_context(network.get_submodule(layer).register_forward_hook(keep, prepend=True))
        run(example)
        before = found.copy()
        found.clear()
        network.load_state_dict({key: t * torch.nan if key in spared else t for key, t in state.items()})
        run(example)
    borne_out = len(before) == len(found) and all(map(torch.equal, before, found))
    return [key for key in state if key not in spared or not borne_out]


def _behind(network: nn.Module, layer: str, example: Tensor) -> list[str]:
    """The tensors of modules that are entered for the first time behind the last call of ``layer``, if there is one."""
    entered: dict[str, bool] = {}

    def left(*_: object) -> None:
        entered.update(dict.fromkeys(entered, False))

    with ExitStack() as hooks, torch.no_grad():
        for name, module in named_modules(network):

            def enter(*_: object, name: str = name) -> None:
                entered.setdefault(name, True)

            hooks.enter_context(module.register_forward_pre_hook(enter))
        hooks.enter_context(network.get_submodule(layer).register_forward_hook(left))
        network(example)
    if entered.get(layer, True):
        return []
    return [key for key in network.state_dict() if entered.get(key.rpartition(".")[0], False)]
