"""The inputs and outputs of layers, seen as a network hands them over."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def watch_inputs(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Calls ``see`` on the inputs of ``layer`` before each of its calls, until what is returned is removed.

    They are the first tensor that it is given, by position or by keyword.
    """

    def enter(layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if first is not None:
            see(first)

    return layer.register_forward_pre_hook(enter, with_kwargs=True)


def watch_outputs(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Calls ``see`` on what ``layer`` puts out in each of its calls, if it is a tensor, until the hook is removed."""

    def leave(layer: nn.Module, args: object, outputs: object) -> None:
        if isinstance(outputs, Tensor):
            see(outputs)

    return layer.register_forward_hook(leave)
