"""Records one run of a network at the dispatcher, below autograd, where every operation is an ATen operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from alignment.tracing.recording import Call, Frame, Recording, Value, leaves_of, tensors_in, uniform_axes

# Memory that nobody has written yet: its content says nothing.
_EMPTY = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")
# They hand the data of a tensor to Python without passing the dispatcher.
_READS = {
    torch.Tensor.tolist: "tolist",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.__array__: "numpy",
    torch.Tensor.__dlpack__: "dlpack",
}


def record(
    model: nn.Module, inputs: Sequence[Any], decomposition: Callable[[OpOverload], Callable[..., Any] | None]
) -> Recording:
    """What ``model(*inputs)`` does. ``decomposition`` gives what to run in the stead of an operation, or None."""
    recorder = _Recorder(model, inputs, decomposition)
    with _module_calls(model, recorder), recorder, _Reads(recorder):
        outputs = model(*inputs)
    recorder.recording.outputs = recorder.values(outputs)
    return recorder.recording


class _Recorder(TorchDispatchMode):
    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Any],
        decomposition: Callable[[OpOverload], Callable[..., Any] | None],
    ) -> None:
        super().__init__()
        self._decomposition = decomposition
        self._known: dict[int, Value] = {}
        # Kept alive, since a freed tensor's id and memory would be given to another.
        self._alive: list[Tensor] = []
        self._by_storage: dict[int, list[tuple[Tensor, Value]]] = {}
        self._tainted: set[int] = set()
        self.stack: list[Frame] = []
        self.recording = Recording({}, [])
        self._note_state(model)
        self.recording.inputs = [self._note(tensor) for tensor in tensors_in(inputs)]

    def _note_state(self, model: nn.Module) -> None:
        for key, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                self.recording.state[key] = self._known.get(id(tensor)) or self._note_owned(tensor)

    def _note_owned(self, tensor: Tensor) -> Value:
        """A tensor of the state dict; one that lies in another's memory is tied to it."""
        others = self._by_storage.get(_storage(tensor), [])
        value = self._note(tensor)
        self.recording.owned[id(tensor)] = value
        for other, known in others[:1]:
            if _layout(other) == _layout(tensor):
                self.recording.tied.append((known, value))
            else:
                self.recording.overlapping += [known, value]
        return value

    def _note(self, tensor: Tensor, constant: bool = False, uniform: tuple[bool, ...] = ()) -> Value:
        value = Value(tuple(tensor.shape), str(tensor.dtype), _storage(tensor), constant, uniform)
        self._known[id(tensor)] = value
        self._alive.append(tensor)
        self._by_storage.setdefault(value.storage, []).append((tensor, value))
        return value

    def value(self, tensor: Tensor) -> Value:
        """The value of a tensor that operation handed over, whether or not it was seen before."""
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        aliases = self._by_storage.get(_storage(tensor), [])
        for other, value in aliases:
            if _layout(other) == _layout(tensor):
                self._known[id(tensor)] = value
                self._alive.append(tensor)
                return value
        value = self._note(tensor)
        self.recording.captured.append(value)
        self.recording.overlapping += [value for _, value in aliases]
        return value

    def values(self, tree: object) -> list[Value]:
        """The values of all tensors in ``tree``."""
        return [self.value(tensor) for tensor in tensors_in(tree)]

    def is_constant(self, value: Value) -> bool:
        """Whether nothing but Python numbers has gone into ``value``."""
        return value.constant and value.storage not in self._tainted

    def note_read(self, name: str) -> None:
        """Notes that the innermost module call has handed data to Python."""
        if self.stack:
            self.stack[-1].reads.append(name)

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``, or what it decomposes into, and records it."""
        kwargs = kwargs or {}
        replacement = self._decomposition(func)
        if replacement is not None:
            with self:
                result = replacement(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = _by_name(func, args, kwargs)
        literal = func.name() == "aten::lift_fresh" and id(args[0]) not in self._known
        if literal:
            self._note(args[0], constant=True, uniform=uniform_axes(args[0]))
        noted = pytree.tree_map_only(Tensor, self.value, given)
        result = func(*args, **kwargs)
        self._record(func, noted, result)
        return result

    def _record(self, func: OpOverload, args: Mapping[str, Any], result: object) -> None:
        inputs = tuple(leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Value))
        written = tuple(_written(func, args))
        constant = all(map(self.is_constant, inputs))
        if not constant:
            self._tainted.update(value.storage for value in written)
        self.recording.written.update(value.storage for value in written)
        self.recording.used.update(inputs)
        if not constant and _reads_data(func, inputs, result):
            self.note_read(func.name().removeprefix("aten::"))
        memory = {value.storage for value in inputs}
        outputs = tuple(self._output(func, tensor, constant) for tensor in tensors_in(result))
        views = any(value.storage in memory for value in outputs)
        frames = tuple(self.stack)
        self.recording.calls.append(Call(func, args, inputs, written, outputs, frames, constant, views))

    def _output(self, func: OpOverload, tensor: Tensor, constant: bool) -> Value:
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        if not constant:
            return self._note(tensor)
        empty = func.name().startswith(_EMPTY)
        return self._note(tensor, True, (True,) * tensor.ndim if empty else uniform_axes(tensor))


class _Reads(TorchFunctionMode):
    """Sees what the dispatcher does not: tensors turned into Python or NumPy data."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``, noting a read."""
        if func in _READS and not self._recorder.is_constant(self._recorder.value(args[0])):
            self._recorder.note_read(_READS[func])
        return func(*args, **(kwargs or {}))


@contextmanager
def _module_calls(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Keeps the recorder's stack of module calls."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.stack.append(Frame(module, names[module], recorder.values((args, kwargs))))
        recorder.recording.frames.append(recorder.stack[-1])

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        frame = recorder.stack.pop()
        frame.outputs = recorder.values(output)
        plain = [leaf for leaf in leaves_of(output, set()) if leaf is not None and not isinstance(leaf, Tensor)]
        if frame.reads and plain:
            # What was read leaves the module as a Python value: its caller may branch on it too.
            for read in frame.reads:
                recorder.note_read(read)

    names = {module: name for name, module in model.named_modules()}
    handles = [
        handle
        for module in names
        for handle in (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _by_name(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the operation's schema, with its defaults."""
    names = [argument.name for argument in func._schema.arguments]
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


def _written(func: OpOverload, args: Mapping[str, Any]) -> Iterator[Value]:
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (v for v in pytree.tree_leaves(args.get(argument.name)) if isinstance(v, Value))


def _reads_data(func: OpOverload, inputs: Sequence[Value], result: object) -> bool:
    """Whether Python learns more from ``result`` than the shapes of the inputs tell."""
    if func.name() == "aten::index.Tensor":
        return any(value.dtype in ("torch.bool", "torch.uint8") for value in inputs[1:])
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return True
    return any(isinstance(leaf, bool | int | float | complex) for leaf in pytree.tree_leaves(result))
