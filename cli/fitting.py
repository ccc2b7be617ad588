"""Whether a file's tensors are those of a network."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from alignment.validate import not_finite
from cli.networks import FitError, Network, NetworkFile, State, describe
from strategies.checkpoints import unwrapping


def fitting_states(network: Network, files: Sequence[NetworkFile]) -> list[dict[str, Tensor]]:
    """`fitting_state` of each file. Raises `FitError` as it does: beside one that fits, no option helps."""
    first, *others = files
    return [fitting_state(network, first), *(fitting_state(network, each, beside=first.path) for each in others)]


def fitting_state(network: Network, file: NetworkFile, beside: Path | None = None) -> dict[str, Tensor]:
    """The tensors of ``file`` as the state dict of ``network``, tied ones that the file leaves out filled in.

    ``beside`` is a file that fits.

    Raises `FitError` that names the first tensor that is missing, unknown, of another shape, of whole numbers where the
    network has floats or the reverse, or not finite.
    """
    expected = {name: t for name, t in network.module.state_dict().items() if isinstance(t, Tensor)}
    state = dict(file.state) | _tied(expected, file.state)
    if problems := _problems(expected, state):
        more = f" {len(problems) - 1} more tensors do not fit." if len(problems) > 1 else ""
        misfit = f"{file.path} does not fit {describe(network.architecture)}: {problems[0]}."
        raise FitError(f"{misfit}{more} {_remedy(expected, state, file.path, beside)}")
    if strange := next((name for name in expected if _kind(state[name]) != _kind(expected[name])), None):
        # A mean of whole numbers is the first of them: the merge would be the first file.
        raise FitError(
            f"{file.path}: tensor {strange!r} holds {_kind(state[strange])} ({_dtype(state[strange])}), expected "
            f"{_kind(expected[strange])} ({_dtype(expected[strange])}). Give the file as the network was trained, "
            "before it was quantised or converted"
        )
    if broken := not_finite(state):
        raise FitError(
            f"{file.path}: tensor {broken!r} holds NaN or infinity: the training diverged, or the file broke"
        )
    return {name: state[name] for name in expected}


def _tied(expected: State, state: State) -> dict[str, Tensor]:
    """Tensors that the network keeps under two names: `safetensors.torch.save_model` writes only one of them."""
    there = {_memory(tensor): state[name] for name, tensor in expected.items() if name in state}
    missing = {name: _memory(tensor) for name, tensor in expected.items() if name not in state}
    return {name: there[memory] for name, memory in missing.items() if memory in there}


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _problems(expected: State, state: State) -> list[str]:
    problems = [
        f"tensor {name!r} has shape {_shown(state[name])}, expected {_shown(tensor)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems += [f"tensor {name!r} is missing" for name in expected if name not in state]
    return problems + [f"tensor {name!r} is not of this network" for name in state if name not in expected]


def _kind(tensor: Tensor) -> str:
    return "complex numbers" if tensor.is_complex() else "floats" if tensor.is_floating_point() else "whole numbers"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shown(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "()"


def _remedy(expected: State, state: State, path: Path, beside: Path | None) -> str:
    if prefix := _wrapper(expected, state):
        return (
            f"Every name in the file begins with {prefix!r}, which a wrapper put there: save the wrapped network, "
            f"or take it off:\n{unwrapping(path, prefix)}"
        )
    if beside is not None:
        return f"{beside} fits, so these are files of two networks: give files of one."
    return "Say how the network was built: --model, --classes, --width, --depth, --norm, --shape."


def _wrapper(expected: State, state: State) -> str:
    """What stands before every name in the file and before none of the network's; empty where nothing does."""
    found = (name.removesuffix(own) for own in expected for name in state if name.endswith(f".{own}"))
    apart = (prefix for prefix in found if not any(name.startswith(prefix) for name in expected))
    return next((prefix for prefix in apart if all(name.startswith(prefix) for name in state)), "")
