"""Records one run of a network at the dispatcher, below autograd, where every operation is an ATen operation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from alignment.tracing.closures import tensors_held_by
from alignment.tracing.guards import only_raises
from alignment.tracing.recording import Call, Frame, Recording, Value, leaves_of, tensors_in, uniform_axes
from alignment.tracing.schema import arguments_of, label_of, written_by
from alignment.tracing.sharing import layout_of, memory_of

# Memory that nobody has written yet: its content says nothing.
_EMPTY = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")
# They hand the data of a tensor to Python without passing the dispatcher.
_READS: dict[Any, str] = {
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
    recorder.enter(Frame(model, "", recorder.recording.inputs))
    with _module_calls(model, recorder), recorder, _Reads(recorder):
        outputs = model(*inputs)
    recorder.recording.outputs = recorder.leave(outputs)
    recorder.note_aside(model)
    return recorder.recording


class _Recorder(TorchDispatchMode):
    # torch.cond and its kin then arrive as one operation.
    supports_higher_order_operators = True

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
        self._decomposing: set[OpOverload] = set()
        self._stack: list[Frame] = []
        self._told = False
        self._checks = 0
        self.recording = Recording({}, [])
        self._note_state(model)
        self.recording.inputs = [self._note(tensor) for tensor in tensors_in(inputs)]

    def _note_state(self, model: nn.Module) -> None:
        for key, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                self.recording.state[key] = self._known.get(id(tensor)) or self._note(tensor)
                self.recording.owned[id(tensor)] = self.recording.state[key]

            if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
                self.recording.sparse.append(self.recording.state[key])

    def _note(self, tensor: Tensor, constant: bool = False, uniform: tuple[bool, ...] = ()) -> Value:
        value = Value(tuple(tensor.shape), str(tensor.dtype), memory_of(tensor), constant, uniform)
        self._known[id(tensor)] = value
        self._alive.append(tensor)
        self._by_storage.setdefault(value.storage, []).append((tensor, value))
        return value

    def value(self, tensor: Tensor) -> Value:
        """The value of a tensor that operation handed over, whether or not it was seen before."""
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        aliases = self._by_storage.get(memory_of(tensor), [])
        for other, value in aliases:
            if layout_of(other) == layout_of(tensor):
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

    def enter(self, frame: Frame) -> None:
        """Notes that a module is called."""
        self._stack.append(frame)
        self.recording.frames.append(frame)

    def leave(self, output: object) -> list[Value]:
        """The tensors that the innermost module call returns."""
        frame = self._stack.pop()
        frame.outputs = self.values(output)
        plain = [leaf for leaf in leaves_of(output, set()) if leaf is not None and not isinstance(leaf, Tensor)]
        if plain and self._stack:
            # What was read may leave the module as a Python value: its caller may branch on it too.
            self._stack[-1].reads += frame.reads
        return frame.outputs

    def note_aside(self, model: nn.Module) -> None:
        """Notes what of the run the modules of ``model`` keep as attributes, alone or in containers."""
        kept: list[object] = pytree.tree_leaves([vars(module) for module in model.modules()])
        self.recording.aside = [self._known[id(leaf)] for leaf in kept if id(leaf) in self._known]

    def note_read(self, name: str) -> None:
        """Notes that the innermost module call has handed data to Python, if that can do more than end the run."""
        if self._checks or only_raises():
            return
        self._stack[-1].reads.append(name)
        self._told = True

    @contextmanager
    def checking(self) -> Generator[None]:
        """While an operation runs that reads data only to refuse it."""
        self._checks += 1
        try:
            yield
        finally:
            self._checks -= 1

    def note_telling(self, tensor: Tensor, name: str) -> None:
        """Notes that ``tensor`` is turned into Python data."""
        value = self.value(tensor)
        if not self.is_constant(value):
            self.recording.told.append(value)
            self.note_read(name)

    def __torch_dispatch__(
        self,
        func: OpOverload | HigherOrderOperator,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs ``func``, or what it decomposes into, and records it."""
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._as_one(func, args, kwargs)
        replacement = None if func in self._decomposing else self._decomposition(func)
        if replacement is not None:
            result = self._decomposed(func, replacement, args, kwargs)
            if result is not NotImplemented:
                return result
        given = arguments_of(func, args, kwargs)
        # Once Python has been told something, what it makes is not known to be constant.
        if func.name() == "aten::lift_fresh" and id(args[0]) not in self._known and not self._told:
            self._note(args[0], constant=True, uniform=uniform_axes(args[0]))
        noted = pytree.tree_map_only(Tensor, self.value, given)
        result = func(*args, **kwargs)
        self._record(func, noted, result)
        return result

    def _as_one(self, func: HigherOrderOperator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operation that is given functions to run, and records that it reads all that they hold."""
        leaves: list[object] = pytree.tree_leaves((args, kwargs))
        held = [tensors_held_by(leaf) for leaf in leaves if callable(leaf) and not isinstance(leaf, Tensor)]
        if None in held:
            # It may use anything that the module at hand can.
            self.note_read(label_of(func))
        inputs = self.values([args, kwargs, held])
        result = cast(Any, func(*args, **kwargs))  # pyright: ignore[reportUnknownMemberType]
        outputs = tuple(self._note(tensor) for tensor in tensors_in(result))
        frames = tuple(self._stack)
        self.recording.calls.append(Call(func, {"given": inputs}, tuple(inputs), (), outputs, frames, False, False))
        return result

    def _decomposed(
        self, func: OpOverload, replacement: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._decomposing.add(func)
        try:
            with self:
                return replacement(*args, **kwargs)
        except Exception:  # the operation itself still works; it is then an unknown one
            return NotImplemented
        finally:
            self._decomposing.discard(func)

    def _record(self, func: OpOverload, args: Mapping[str, Any], result: object) -> None:
        inputs = tuple(leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Value))
        # Such an operation changes a tensor's shape, not its content: afterwards it is another value.
        reshapes = torch.Tag.inplace_view in func.tags
        written = () if reshapes else tuple(written_by(func, args))
        random = torch.Tag.nondeterministic_seeded in func.tags
        constant = not random and all(map(self.is_constant, inputs))
        if not constant:
            self._tainted.update(value.storage for value in written)
        self.recording.written.update(value.storage for value in written)
        if not constant and _reads_data(func, inputs, result):
            self.note_read(label_of(func))
        memory = {value.storage for value in inputs}
        outputs = tuple(self._output(func, tensor, constant, anew=reshapes) for tensor in tensors_in(result))
        views = any(value.storage in memory for value in outputs)
        frames = tuple(self._stack)
        self.recording.calls.append(Call(func, args, inputs, written, outputs, frames, constant, views))

    def _output(self, func: OpOverload, tensor: Tensor, constant: bool, anew: bool) -> Value:
        if id(tensor) in self._known and not anew:
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
        if func in _READS:
            self._recorder.note_telling(args[0], _READS[func])
        if _only_checks(func, args, kwargs or {}):
            with self._recorder.checking():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _module_calls(model: nn.Module, recorder: _Recorder) -> Generator[None]:
    """Keeps the recorder's stack of the calls of modules below ``model``."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.enter(Frame(module, names[module], recorder.values((args, kwargs))))

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        recorder.leave(output)

    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    # Compiled modules take no hooks: what happens in them counts as their caller's.
    names = {module: name for name, module in named if name and not isinstance(module, torch.jit.ScriptModule)}
    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(leave, with_kwargs=True, always_call=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _only_checks(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether ``func`` looks at values, but gives the same kind of result for all that it does not refuse."""
    classes: object = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
    return func is torch.nn.functional.one_hot and isinstance(classes, int) and classes >= 0


def _reads_data(func: OpOverload, inputs: Sequence[Value], result: object) -> bool:
    """Whether Python learns more from ``result`` than the shapes of the inputs tell."""
    if func.name() == "aten::index.Tensor":
        return any(value.dtype in ("torch.bool", "torch.uint8") for value in inputs[1:])
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return True
    return any(isinstance(leaf, bool | int | float | complex) for leaf in pytree.tree_leaves(result))
