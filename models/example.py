"""Made-up samples, to trace a network with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.architecture import Architecture
from models.errors import ModelError
from models.imported import import_beside

# What the function is called that gives the example of a network ``module:function``.
ENDING = "_example"


def example_inputs(architecture: Architecture, seed: int = 0) -> tuple[Tensor]:
    """Two samples that the network takes, drawn from ``seed``: of its shape, and normal unless it takes tokens.

    A network of the user's, ``module:function``, may have ``function_example`` beside it, which is given the
    architecture and returns them. Raises `ModelError` where that raises, or returns no tensor.
    """
    own = import_beside(architecture.model, ENDING) if ":" in architecture.model else None
    if own is None:
        return (torch.randn((2, *architecture.shape), generator=torch.Generator().manual_seed(seed)),)
    what = f"model {architecture.model!r}: its example, called with {architecture},"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            inputs = own(architecture)
        except Exception as error:
            raise ModelError(f"{what} raised {type(error).__name__}: {error}") from error
    if not isinstance(inputs, Tensor):
        raise ModelError(f"{what} returned {type(inputs).__name__}, expected a tensor of two samples")
    return (inputs,)


def not_taken(architecture: Architecture, inputs: Tensor, error: Exception, others: Sequence[str] = ()) -> str:
    """What to tell of a network that raises ``error`` on its example; its weights are of the dtypes ``others`` too."""
    shape = "x".join(str(size) for size in inputs.shape[1:])
    dtype = str(inputs.dtype).removeprefix("torch.")
    told = f"model {architecture.model!r} does not take {shape}: {type(error).__name__}: {error} (on {dtype} samples)"
    if others and inputs.is_floating_point():
        return f"{told}. Its weights are {' and '.join(others)}: call .float() on it, or cast samples in its forward"
    if ":" not in architecture.model or not inputs.is_floating_point():
        return told
    function = architecture.model.partition(":")[2] + ENDING
    return f"{told}. If it takes tokens, define {function}(architecture) beside it, which returns two samples of them"
