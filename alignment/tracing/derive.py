"""`derive_spec`: record a run, tie the axes, name the groups, prove them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from alignment.errors import SpecError
from alignment.spec import Factor, PermutationSpec
from alignment.tracing.assembly import assemble
from alignment.tracing.bench import Bench, bench, seeded
from alignment.tracing.derivation import derive
from alignment.tracing.proof import IDLE, prove
from alignment.tracing.recorder import record
from alignment.tracing.rules.table import decomposition
from alignment.tracing.sharing import Sharing, sharing
from alignment.tracing.training import keep_for_training


def derive_spec(model: nn.Module, inputs: Sequence[Any]) -> PermutationSpec:
    """The permutation spec of ``model``: every group that one run on ``inputs`` shows and experiment proves.

    Usage: ``derive_spec(model, (x,))``. ``inputs`` is what ``model`` is called with: at least two time steps for a
    recurrent network, at least two tokens for attention.

    The run is recorded operation by operation; each operation ties the axes that it pairs (the derivation that
    Git Re-Basin, arXiv 2209.04836, section 3.2 does by hand). Inputs and outputs never move, nor does what feeds a
    tensor that only training reads. What cannot be derived stays fixed, with the reason in ``spec.fixed``. ``model`` is
    left as it was. Cost: about six forward passes and one backward, in fp64 where the network allows it. Raises
    `SpecError` for a tensor in the place of the tuple, and what ``model(*inputs)`` raises.
    """
    if isinstance(inputs, Tensor):
        raise SpecError(
            "derive_spec: expected a tuple of all that the network is called with, such as (x,), got a tensor"
        )
    with bench(model, inputs) as runnable:
        return _derive(runnable, sharing(model))


def _derive(runnable: Bench, shared: Sharing, with_training: bool = False) -> PermutationSpec:
    """The spec; where units have no say in it, such as the variances that training draws noise by, tied as there."""
    buffers = frozenset(name for name, _ in runnable.model.named_buffers(remove_duplicate=False))
    try:
        with seeded(runnable.model):
            recording = record(runnable.model, runnable.inputs, decomposition)
        derivation = derive(recording, shared)
        keep_for_training(runnable, derivation, shared, with_training)
        spec = prove(runnable, assemble(derivation, buffers))
        return _derive(runnable, shared, True) if IDLE in spec.fixed.values() and not with_training else spec
    except Exception as error:  # a network past our understanding gets a spec all the same
        return _nothing_moves(runnable, buffers, f"not derived: {type(error).__name__}: {_told_by(error)}")


def _told_by(error: Exception) -> str:
    """The start of what an error says, without addresses: they differ from run to run."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(error))[:200]


def _nothing_moves(runnable: Bench, buffers: frozenset[str], reason: str) -> PermutationSpec:
    state = runnable.state()
    shapes = {key: tensor.shape for key, tensor in state.items() if tensor.ndim}
    return PermutationSpec(
        groups={},
        axes={key: tuple(((Factor(size),),) for size in shape) for key, shape in shapes.items()},
        buffers=buffers & frozenset(state),
        fixed={(key, axis): reason for key, shape in shapes.items() for axis in range(len(shape))},
    )
