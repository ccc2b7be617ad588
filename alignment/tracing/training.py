"""What only training reads: an auxiliary classifier, whose inputs must not be moved away from under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from alignment.tracing.bench import Bench, seeded
from alignment.tracing.derivation import Derivation, derive, fix_values, meet
from alignment.tracing.recorder import record
from alignment.tracing.rules.table import decomposition
from alignment.tracing.sharing import Sharing
from alignment.tracing.switches import in_mode

READ_IN_TRAINING = "a tensor that only training reads goes with it"


def keep_for_training(bench: Bench, derivation: Derivation, shared: Sharing, with_training: bool = False) -> None:
    """Fixes, in ``derivation``, what moves with a tensor that nothing in evaluation mode comes of.

    Such a tensor stays, since nothing proves how it would have to move. So its sources must stay too, or the network
    would train on as another. A second run, in training mode and without its noise, tells what they are. Where that run
    fails (it may want targets), or makes nothing of the tensor either, nothing is known and nothing more is fixed.
    It is made without such a tensor too where all shall be tied ``with_training``.
    """
    state = derivation.recording.state
    unread = [key for key, value in state.items() if value.shape and value not in derivation.read]
    computed = {value for call in derivation.recording.calls for value in call.inputs}
    anew = [key for key in unread if state[key] not in computed]
    training = _in_training(bench, shared, anew) if unread or with_training else None
    if training is None:
        return
    seen = training.recording.state
    trained = [key for key in unread if seen[key] in training.read]
    if not trained and not with_training:
        return
    derivation.read_in_training = frozenset(state[key] for key in trained)
    fix_values((seen[key] for key in trained), READ_IN_TRAINING)
    for key, value in state.items():
        meet(value, seen[key].axes or (), READ_IN_TRAINING)


def _in_training(bench: Bench, shared: Sharing, anew: Iterable[str]) -> Derivation | None:
    """A run in training mode; ``anew`` are the keys of what evaluation does not even compute with."""
    before = bench.state()
    try:
        with seeded(bench.model), in_mode(bench.model, training=True):
            recording = record(bench.model, bench.inputs, _quiet)
        # A loss kept aside is not among the outputs; what evaluation discards as well is no loss.
        recording.told += [*recording.aside, *recording.that_follow({recording.state[key] for key in anew})]
        return derive(recording, shared)
    except Exception:  # what cannot be run in training mode cannot be asked
        return None
    finally:
        bench.load(before)


def _quiet(op: OpOverload) -> Callable[..., Any] | None:
    """The decompositions of an ordinary run; noise, which favours no unit, is one for all, and dropout keeps them."""
    return _QUIET.get(op.name()) or decomposition(op)


def _all_ones(noise: Tensor, p: float = 0.5, generator: object = None) -> Tensor:
    return noise.fill_(1)


def _alike(x: Tensor, **_: object) -> Tensor:
    return torch.ones_like(x)


def _kept(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


_QUIET: dict[str, Callable[..., Any]] = {
    "aten::bernoulli_.float": _all_ones,
    "aten::native_dropout": _kept,
    **dict.fromkeys(("aten::randn_like", "aten::rand_like"), _alike),
}
