"""Where in a network the units of each group can be read, found by trial."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from alignment.batches import network_with
from alignment.channels import named_modules
from alignment.permutation import permute, random_permutation
from alignment.spec import Axis, PermutationSpec, State
from alignment.tracing.bench import bench
from alignment.units import axis_index, is_whole, key_of

# Small groups of one size could agree on one trial by chance.
TRIALS = 5

ENTERS, LEAVES = "enters", "leaves"


class Place(NamedTuple):
    """Tensor number ``leaf`` of those that enter or leave (``side``) a module at its ``call``-th call."""

    module: str
    side: str
    call: int
    leaf: int


class Tap(NamedTuple):
    """A place, and how units lie on axis ``number`` of the tensor that passes there."""

    place: Place
    number: int
    axis: Axis


Seen = dict[Place, Tensor]


def find_taps(spec: PermutationSpec, model: nn.Module, state: State, inputs: Tensor) -> list[Tap]:
    """Places at which to read the units of the groups of ``spec``.

    A unit is read where it enters a layer that has a weight of two axes or more: after its non-linearity, and on
    a residual stream once for every block. Units that enter none (the keys of attention) are read where they leave
    a module.

    No name and no kind of layer is relied on: under a random permutation of all groups each value inside the
    network is permuted too, and how tells what it holds. Costs `TRIALS` + 2 forward passes of ``inputs``, in fp64 where
    the network runs in it.
    """
    with bench(network_with(model, state).cpu(), (inputs.cpu(),)) as trial:
        base = look(trial.model, *trial.inputs)
        found = list(_candidates(spec, base))
        generator = torch.Generator().manual_seed(0)
        for _ in range(TRIALS):
            permutation = random_permutation(spec, generator)
            trial.load(permute(spec, permutation, state))
            moved = look(trial.model, *trial.inputs)
            index = {axis: axis_index(spec, axis, permutation) for axis in {tap.axis for tap in found}}
            found = [tap for tap in found if _moves_by(index[tap.axis], tap, base, moved, trial.tolerance)]
        return _chosen(trial.model, _sole(found), base)


def look(network: nn.Module, inputs: Tensor, places: Collection[Place] | None = None) -> Seen:
    """The tensors that pass at ``places`` (default: everywhere) when ``network`` runs on ``inputs``."""
    seen: Seen = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in named_modules(network):
            for hook in _watch(module, name, seen, places):
                hooks.enter_context(hook)
        network(inputs)
    return seen


def _watch(module: nn.Module, name: str, seen: Seen, places: Collection[Place] | None) -> Iterator[RemovableHandle]:
    calls = {ENTERS: 0, LEAVES: 0}

    def note(side: str, tree: object) -> None:
        leaves: list[object] = pytree.tree_leaves(tree)
        for leaf, tensor in enumerate(leaves):
            place = Place(name, side, calls[side], leaf)
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and (places is None or place in places):
                # What is kept for long must outlive writes in place.
                seen[place] = tensor if places is None else tensor.clone()
        calls[side] += 1

    def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        note(ENTERS, (args, kwargs))

    def leave(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        note(LEAVES, output)

    yield module.register_forward_pre_hook(enter, with_kwargs=True)
    yield module.register_forward_hook(leave)


def _candidates(spec: PermutationSpec, base: Seen) -> Iterator[Tap]:
    """Every axis of every value, with every arrangement of units, known from the parameters, of its size."""
    arrangements: defaultdict[int, dict[Axis, None]] = defaultdict(dict)
    for tensor, axes in spec.axes.items():
        for size, axis in zip(spec.shape(tensor), axes, strict=True):
            if any(map(key_of, axis)) and is_whole(spec, axis):
                arrangements[size][axis] = None
    for place, tensor in base.items():
        for number, size in enumerate(tensor.shape[1:], 1):
            yield from (Tap(place, number, axis) for axis in arrangements[size])


def _moves_by(index: Tensor, tap: Tap, base: Seen, moved: Seen, tolerance: float) -> bool:
    before, after = base[tap.place], moved[tap.place]
    others = [axis for axis in range(before.ndim) if axis != tap.number]
    # The means of the slices do not depend on the other axes, and are few.
    if not _equal(before.mean(others)[index], after.mean(others), tolerance):
        return False
    return _equal(before.index_select(tap.number, index), after, tolerance)


def _equal(one: Tensor, other: Tensor, tolerance: float) -> bool:
    # Of what overflows, or a mask hides, nothing is told; and no tolerance is a NaN.
    if not bool(one.isfinite().all() and other.isfinite().all()):
        return False
    return one.allclose(other, rtol=max(tolerance, 1e-6), atol=tolerance * one.abs().max().item())


def _sole(taps: Iterable[Tap]) -> list[Tap]:
    """The taps of places where only one arrangement fits."""
    by_place: defaultdict[Place, list[Tap]] = defaultdict(list)
    for tap in taps:
        by_place[tap.place].append(tap)
    return [found[0] for found in by_place.values() if len(found) == 1]


def _chosen(network: nn.Module, taps: Collection[Tap], base: Seen) -> list[Tap]:
    layers = {name for name, module in named_modules(network) if any(p.ndim > 1 for p in module.parameters(False))}
    entering = [tap for tap in taps if tap.place.side == ENTERS and tap.place.module in layers]
    read = {key_of(segment) for tap in entering for segment in tap.axis}
    leaving = [
        tap
        for tap in taps
        if tap.place.side == LEAVES and any(key_of(segment) not in read for segment in tap.axis if key_of(segment))
    ]
    return _once(entering, base) + _once(leaving, base)


def _once(taps: Iterable[Tap], base: Seen) -> list[Tap]:
    """The first tap of each tensor, which may enter several layers."""
    first: dict[int, Tap] = {}
    for tap in taps:
        first.setdefault(id(base[tap.place]), tap)
    return list(first.values())
