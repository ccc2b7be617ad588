"""BatchNorm statistics of a merged network, recomputed exactly.

The mean of two networks needs new statistics: the variance of its units is less than in either network
(REPAIR, arXiv 2211.08403), and the old running averages belong to neither.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from alignment.batches import CallBatch, calls_of_batches, joined_rows, network_with, peeked
from alignment.channels import key_of, named_modules
from alignment.errors import StateError
from alignment.hooks import watch_inputs
from alignment.moments import Moments, add_moments, layers_of, mean_and_variance
from alignment.partial_run import as_far_as
from alignment.spec import State

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batch_norm_moments(
    model: nn.Module, batches: Iterable[CallBatch], settled: bool = False, until: str | None = None
) -> dict[str, Tensor]:
    """The moments of the inputs of every BatchNorm layer that keeps running statistics.

    Each BatchNorm layer normalises by the statistics of the batch at hand, as in training; all else, dropout
    too, is in eval mode. So a layer sees inputs that are normalised as they will be once the new statistics
    are written, not as the stale ones would have it. Larger, well mixed batches make the two agree better.
    One pass, without gradients; ``model`` is not touched. A batch of one sample joins its neighbour, since
    one value has no variance.

    With ``settled``, layers normalise by the running statistics that they have. Where data lies apart and differs, the
    batches of one site are no sample of all, and deep layers see inputs that no site alone can normalise rightly:
    pooled, written and measured again with ``settled``, statistics become right one layer deeper at each pass.

    A network of several inputs is given them as a tuple where one tensor would stand: ``((image, table), target)``.

    With ``until``, the network runs no further than to that layer: of those behind it there are no moments. It must be
    one of a single input.
    """
    network = network_with(model)
    moments: dict[str, Tensor] = {}
    first, calls = peeked(calls_of_batches(batches, network))
    with ExitStack() as hooks, torch.no_grad():
        # While all is in eval mode.
        run = network if until is None else as_far_as(network, [until], first[0], hooks)
        watch_batch_norms(network, moments, hooks, settled)
        for call in joined_rows(calls):
            run(*call)
    return moments


def write_moments(state: State, moments: Moments) -> dict[str, Tensor]:
    """``state`` with the running mean and running (unbiased) variance of each layer in ``moments``.

    Layers without moments, and ``num_batches_tracked``, stay as they are. Raises `StateError` for a layer
    that the state does not hold in that shape, for one that saw fewer than two values, and for statistics that are not
    finite in the state's precision.
    """
    written = dict(state)
    for layer in layers_of(moments):
        count, mean, variance = mean_and_variance(moments, layer)
        if count < 2:
            raise StateError(f"moments of {layer!r}: {count:g} values have no variance")
        for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
            key = key_of(layer, name)
            if key not in state or state[key].shape != value.shape:
                raise StateError(f"moments of {layer!r}: the state has no {key!r} of shape {tuple(value.shape)}")
            written[key] = value.to(state[key].device, state[key].dtype)
            if not written[key].isfinite().all():
                raise StateError(f"moments of {layer!r}: its {name!r} is not finite in {state[key].dtype}")
    return written


def recalibrate(model: nn.Module, batches: Iterable[CallBatch]) -> None:
    """Rewrites the BatchNorm statistics of ``model``, in place, from one pass over ``batches``.

    What resetting them and training with ``momentum=None`` would do, but exact: batches count by their size,
    and the variance is that of the pooled values, the variance between batches included. See
    `batch_norm_moments`.
    """
    moments = batch_norm_moments(model, batches)
    model.load_state_dict(write_moments(model.state_dict(), moments))


def watch_batch_norms(network: nn.Module, moments: dict[str, Tensor], hooks: ExitStack, settled: bool = False) -> None:
    """Until ``hooks`` closes, BatchNorm layers add their inputs to ``moments``.

    From now on they are in train mode, or, ``settled``, in eval mode.
    """
    for name, layer in batch_norms(network).items():
        layer.train(not settled)
        hooks.enter_context(watch_inputs(layer, partial(add_moments, moments, name, axis=1)))


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm layers that keep running statistics, by name: those that a mean of networks leaves stale.

    One under several names is there under each: a state has its statistics as often.
    """
    layers = {name: layer for name, layer in named_modules(network, once=False) if isinstance(layer, BATCH_NORMS)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}
