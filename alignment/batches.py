"""What the measurements read: batches of a caller's data, and a private copy of the caller's network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from alignment.errors import AlignmentError, BatchError, StateError
from alignment.precision import is_continuous
from alignment.spec import State

# A batch of inputs, alone or followed by what belongs to it: (inputs, targets, …).
Batch = Tensor | Sequence[Tensor]
# All that a network is called with: one tensor, or several, by position. In a batch it stands where inputs stand.
Call = Tensor | Sequence[Tensor]
CallBatch = Tensor | Sequence[Call]
LabelledBatch = Sequence[Tensor]

T = TypeVar("T")


def reusable(batches: Iterable[T]) -> Iterable[T]:
    """``batches`` if it can be read again, else all of it as a list."""
    return list(batches) if isinstance(batches, Iterator) else batches


def inputs_of(batches: Iterable[Batch], network: nn.Module) -> Iterator[Tensor]:
    """The inputs of each batch that has a sample, on the device of ``network``.

    Raises `ValueError` when there is none, `BatchError` for inputs that are no tensor or are not finite.
    """
    return (inputs for (inputs,) in _calls(batches, network, lambda first, number: (_one_tensor(first, number),)))


def calls_of_batches(batches: Iterable[CallBatch], network: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """What ``network`` is called with for each batch that has a sample, on its device.

    That is what stands first in a batch: a tensor, or a tuple or list of several. Raises as `inputs_of` does.
    """
    return _calls(batches, network, _tensors)


def _calls(
    batches: Iterable[object], network: nn.Module, read: Callable[[object, int], tuple[Tensor, ...]]
) -> Iterator[tuple[Tensor, ...]]:
    """What ``read`` makes of what stands first in each batch, given the batch's number too, where that has a sample."""
    empty = True
    for number, batch in enumerate(batches):
        parts = read(cast(Sequence[object], batch)[0] if isinstance(batch, list | tuple) else batch, number)
        if parts and len(parts[0]):
            empty = False
            yield tuple(on_device_of(network, _finite(part, number)) for part in parts)
    if empty:
        raise ValueError("no batches to measure on")


def labelled(batches: Iterable[LabelledBatch], network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs of each batch that has a sample, its targets as `in_long` has them, on the device of ``network``.

    Raises `BatchError` for a batch that is no pair, and for inputs that are no tensor or are not finite.
    """
    for number, (inputs, targets) in enumerate(pairs(batches)):
        if len(inputs):
            yield on_device_of(network, _finite(inputs, number)), in_long(on_device_of(network, targets))


def pairs(batches: Iterable[object]) -> Iterator[tuple[Tensor, Tensor]]:
    """``batches``, each proved to be inputs and their targets. Raises `BatchError` for others."""
    for number, batch in enumerate(batches):
        parts = cast(Sequence[object], batch) if isinstance(batch, list | tuple) else [batch]
        if len(parts) != 2 or not isinstance(parts[1], Tensor):
            got = ", ".join(type(part).__name__ for part in parts) or "nothing"
            raise BatchError(f"batch {number}: expected inputs and their targets, two tensors, got {got}")
        yield _one_tensor(parts[0], number), parts[1]


def in_long(targets: Tensor) -> Tensor:
    """``targets``, in int64 where they are integers of another width: what takes class numbers takes them in that."""
    return targets if is_continuous(targets) or targets.dtype == torch.bool else targets.long()


def _one_tensor(inputs: object, number: int) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise BatchError(
            f"batch {number}: its inputs are of type {type(inputs).__name__}, expected one tensor, alone or first in a "
            "tuple. Wrap a network of several inputs in a module whose forward takes one tensor and cuts it"
        )
    return inputs


def _tensors(first: object, number: int) -> tuple[Tensor, ...]:
    parts = cast(Sequence[object], first) if isinstance(first, list | tuple) else (first,)
    return tuple(_tensor(part, number) for part in parts)


def _tensor(part: object, number: int) -> Tensor:
    if not isinstance(part, Tensor):
        raise BatchError(
            f"batch {number}: its inputs are of type {type(part).__name__}, expected a tensor, or a tuple of all that "
            "forward takes, alone or first in a tuple: ((image, table), target). Of a dict, hand over what the network "
            "is called with: (batch['image'] for batch in batches)"
        )
    return part


def _finite(inputs: Tensor, number: int) -> Tensor:
    if not bool(inputs.isfinite().all()):
        raise BatchError(f"batch {number}: its inputs hold a value that is not finite")
    return inputs


def first_inputs(batches: Iterable[Batch], network: nn.Module) -> Tensor:
    """The inputs of the first batch."""
    return next(inputs_of(batches, network))


def peeked(inputs: Iterator[T]) -> tuple[T, Iterator[T]]:
    """The first of ``inputs``, as `inputs_of` and `calls_of_batches` give them, and all, it included."""
    first = next(inputs)
    return first, chain([first], inputs)


def joined(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """``batches``, each lone sample joined to its neighbour: one value has no variance."""
    return (inputs for (inputs,) in joined_rows((batch,) for batch in batches))


def joined_rows(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The same of batches of several tensors, such as inputs and targets, that have a row for each sample."""
    held: list[tuple[Tensor, ...]] = []
    for batch in batches:
        if held and len(held[-1][0]) == 1:
            held[-1] = _joined_pair(held[-1], batch)
        else:
            held.append(batch)
        if len(held) > 2:
            yield held.pop(0)
    # The last of all has none behind it.
    if len(held) == 2 and len(held[1][0]) == 1:
        held = [_joined_pair(*held)]
    yield from held


def _joined_pair(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(map(torch.cat, zip(one, other, strict=True)))


def on_device_of(network: nn.Module, tensor: Tensor) -> Tensor:
    """``tensor``, where the parameters of ``network`` are."""
    parameter = next(network.parameters(), None)
    return tensor if parameter is None else tensor.to(parameter.device)


def network_with(model: nn.Module, state: State | None = None) -> nn.Module:
    """A copy of ``model`` that holds ``state``, in eval mode and without gradients; ``model`` is not touched.

    Raises `StateError` when the state is not one of this model, `AlignmentError` for a model that torch.jit compiled or
    that is on the device meta.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise AlignmentError(
            f"expected a network of Python modules, whose layers can be watched, got a {type(model).__name__} of "
            "torch.jit. Give the network that it was made of: its states and its spec are the same"
        )
    if empty := next((name for name, tensor in model.state_dict().items() if _is_empty(tensor)), ""):
        raise AlignmentError(
            f"expected a network with values, got a {type(model).__name__} whose tensor {empty!r} is on the device "
            "meta, which has none. Give it memory with to_empty, and values with load_state_dict"
        )
    network = copy_of(model).eval().requires_grad_(False)
    if state is not None:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise StateError(f"the state does not fit {type(model).__name__}: {error}") from error
        except KeyError as error:
            raise StateError(
                f"the state does not fit {type(model).__name__}: its loading looks for {error}, as that of quantised "
                "layers does. Match and merge networks before they are quantised"
            ) from error
    return network


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of ``model``, which may hold what it computed when it ran: `deepcopy` refuses what has a gradient's graph.

    Such are the weights of pruned layers, those under the older weight and spectral norm, and losses that are kept.
    """
    held = (tensor for module in model.modules() for tensor in (*vars(module).values(), *module.buffers(recurse=False)))
    computed = {id(each): each.detach().clone() for each in held if isinstance(each, Tensor) and not each.is_leaf}
    return deepcopy(model, computed)


def _is_empty(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta
