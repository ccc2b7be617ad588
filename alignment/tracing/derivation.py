"""Walks a recording and ties the axes of all its values, operation by operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from alignment.tracing.dims import EMPTY, Axes, fix, fixed_axes, fresh, size_of, unify
from alignment.tracing.operation import Mixing, Operand, Operation
from alignment.tracing.recording import Call, Frame, Recording, Value
from alignment.tracing.rules.table import PASSIVE, WRITE_ASIDE, rule_of
from alignment.tracing.schema import label_of, name_of
from alignment.tracing.sharing import Sharing
from alignment.tracing.slots import settle
from alignment.unread import UNREAD

# They read whether a mask is causal or how long a packed batch is, to choose between equal ways to compute.
_HARMLESS = (nn.TransformerEncoder, nn.TransformerDecoder, nn.LSTM, nn.GRU, nn.RNN)

_SPARSE = "a tensor in a sparse layout"
_OVERLAPPING = "it shares memory with a tensor of another layout"


@dataclass
class Derivation:
    """What a recording tells: the values carry their axes. ``read`` by a live call; ``mixings`` rule families out.

    ``read_in_training``, where the recording is not of training, are values that training alone reads.
    """

    recording: Recording
    read: frozenset[Value]
    mixings: list[Mixing] = field(default_factory=list[Mixing])
    read_in_training: frozenset[Value] = frozenset()


def derive(recording: Recording, sharing: Sharing) -> Derivation:
    """Gives every value of ``recording`` its axes."""
    barred = _barred_frames(recording)
    steps = recording.live_calls(barred.keys())
    derivation = Derivation(recording, frozenset(value for call in steps for value in call.inputs))
    _start(derivation, sharing)
    for frame, reason in barred.items():
        _fix_frame(recording, frame, reason)
    for call in steps:
        _step(derivation, call, next((barred[frame] for frame in call.frames if frame in barred), None))
    for frame, reason in barred.items():
        fix_values([*frame.inputs, *frame.outputs], reason)
    fix_values(recording.overlapping, _OVERLAPPING)
    fix_values(recording.outputs, "network output")
    return derivation


def _start(derivation: Derivation, sharing: Sharing) -> None:
    recording = derivation.recording
    for value in recording.state.values():
        value.axes = value.axes or tuple(map(fresh, value.shape))
    for value in recording.inputs:
        value.axes = fixed_axes(value.shape, "network input")
    for value in recording.captured:
        value.axes = fixed_axes(value.shape, "a tensor that is not in the state dict")
    for one, other in sharing.tied:
        meet(recording.state[one], _axes(recording.state[other]), "tied tensors")
    for value in recording.state.values():
        if value not in derivation.read:
            fix_values([value], UNREAD)
    fix_values((recording.state[key] for key in sharing.overlapping), _OVERLAPPING)
    fix_values(recording.sparse, _SPARSE)


def _barred_frames(recording: Recording) -> dict[Frame, str]:
    """The module calls whose control flow may depend on data, with the reason to fix all that they touch."""
    return {
        frame: f"data-dependent control flow: {frame.reads[0]} in {frame.name or 'the network'}"
        for frame in recording.frames
        if frame.reads and type(frame.module) not in _HARMLESS
    }


def _fix_frame(recording: Recording, frame: Frame, reason: str) -> None:
    """Fixes what the branch that was not taken could have used: all parameters below the module."""
    tensors = [*frame.module.parameters(), *frame.module.buffers()]
    fix_values([recording.owned[id(t)] for t in tensors if id(t) in recording.owned], reason)


def _step(derivation: Derivation, call: Call, barred: str | None) -> None:
    recording = derivation.recording
    if call.constant and not call.written and not (call.views and _is_written(recording, call.outputs)):
        for value in call.outputs:
            value.axes = value.axes or _constant_axes(value)
        return
    operation = _operation(derivation, call)
    settles = name_of(call.op) not in PASSIVE or barred is not None
    if settles:
        settle([expr for operand in operation.operands for expr in operand.axes], operation.why)
    reason = barred or _apply(derivation, call, operation)
    if reason is not None:
        settle([expr for operand in operation.operands for expr in operand.axes], reason)
        _fix_axes((operand.axes for operand in operation.operands), reason)
        _conclude(call, [fixed_axes(value.shape, reason) for value in call.outputs], reason)


def _apply(derivation: Derivation, call: Call, operation: Operation) -> str | None:
    """Applies the operation's rule; the reason why that cannot be done, if so."""
    rule = rule_of(call.op)
    if rule is None:
        return f"unknown operation {operation.name}"
    if not set(call.written) <= set(call.outputs) and name_of(call.op) not in WRITE_ASIDE:
        return f"operation {operation.name}: it writes what it does not return"
    try:
        outputs = rule(operation)
    except Exception as error:  # a rule that meets what it was not written for must not end the derivation
        return f"operation {operation.name} in a form without a rule ({error or type(error).__name__})"
    if not _fits(call, outputs):
        return f"operation {operation.name} in a form without a rule"
    derivation.mixings += operation.mixings
    _conclude(call, outputs, operation.why)
    return None


def _operation(derivation: Derivation, call: Call) -> Operation:
    def operand(value: Any) -> Any:
        return Operand(_seen(derivation.recording, value), value.shape) if isinstance(value, Value) else value

    args = {name: pytree.tree_map(operand, arg) for name, arg in call.args.items()}
    used = tuple(value in derivation.read for value in call.outputs)
    return Operation(label_of(call.op), args, tuple(value.shape for value in call.outputs), used)


def _seen(recording: Recording, value: Value) -> Axes:
    """A constant that nobody writes is seen anew by each reader, so that it ties none of them to another."""
    if value.constant and value.storage not in recording.written:
        return _constant_axes(value)
    if value.constant and value.axes is None:
        value.axes = _constant_axes(value)
    return _axes(value)


def _constant_axes(value: Value) -> Axes:
    return tuple(
        fresh(size, None if same else "a constant with positions")
        for size, same in zip(value.shape, value.uniform, strict=True)
    )


def _is_written(recording: Recording, values: Iterable[Value]) -> bool:
    return any(value.storage in recording.written for value in values)


def _fits(call: Call, outputs: Sequence[Axes]) -> bool:
    if len(outputs) != len(call.outputs):
        return False
    return all(
        0 in value.shape or tuple(map(size_of, axes)) == value.shape
        for value, axes in zip(call.outputs, outputs, strict=True)
    )


def _conclude(call: Call, outputs: Sequence[Axes], why: str) -> None:
    """Gives the outputs their axes; what was written in place keeps its own, tied to the new ones."""
    for value, axes in zip(call.outputs, outputs, strict=True):
        if tuple(map(size_of, axes)) != value.shape:
            # What a rule makes of no elements may be anything.
            value.axes = fixed_axes(value.shape, EMPTY)
        elif value.axes is None:
            value.axes = axes
        else:
            meet(value, axes, why)


def meet(value: Value, axes: Axes, why: str) -> None:
    """States that ``value`` lies as ``axes`` do."""
    settle([*_axes(value), *axes], why)
    for own, other in zip(_axes(value), axes, strict=True):
        unify(own, other, why)


def fix_values(values: Iterable[Value], reason: str) -> None:
    """States that nothing in ``values`` moves."""
    for value in values:
        if value.axes is not None:
            settle(value.axes, reason)
            _fix_axes([value.axes], reason)


def _fix_axes(all_axes: Iterable[Axes], reason: str) -> None:
    for axes in all_axes:
        for expr in axes:
            fix(expr, reason)


def _axes(value: Value) -> Axes:
    assert value.axes is not None
    return value.axes
