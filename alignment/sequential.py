"""A closed-form merge of one layer after another, each on the features that those before it give when merged.

As in RegMean++ (arXiv 2508.03121), on the merged network's own features X̄_i, and fitted to what each network's layer
puts out on its own, Y_i = W_i X_i, and held with the strength s where it is, at W̄₀:
min Σ_i ‖W̄ X̄_i − Y_i‖² + s ‖W̄ − W̄₀‖², which is solved by W̄ᵀ = (Σ X̄_i X̄_iᵀ + s)⁻¹ (Σ X̄_i Y_iᵀ + s W̄₀ᵀ). Layers
behind then make up for what those before got wrong.

Inputs are those that `linear_layers` says; sums are over samples.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, write_moments
from alignment.batches import Batch, first_inputs, inputs_of, network_with, peeked, reusable
from alignment.errors import StateError
from alignment.hooks import watch_inputs
from alignment.linear_layers import batched, gram_sizes, matrix_of, parts_of, rows_of
from alignment.partial_run import as_far_as
from alignment.precision import widened
from alignment.solving import solve
from alignment.spec import State

HOLD = 1e-3
"""How firmly a layer is held where it is when it is fitted to outputs, as a share of its mean squared inputs."""


def output_sums(
    merged: nn.Module, own: nn.Module, batches: Iterable[Batch], layers: Sequence[str]
) -> dict[str, tuple[Float64[Tensor, "inputs inputs"], Float64[Tensor, "inputs outputs"]]]:
    """For each of ``layers``, Σ x̄ x̄ᵀ of its inputs in ``merged`` and Σ x̄ yᵀ with its outputs y in ``own``.

    Both networks run on the same samples, in eval mode, without gradients, no further than to ``layers``, and are not
    touched. A layer that is called at several places counts at each. Raises `ValueError` without batches, `StateError`
    for a layer that one network calls more often than the other.
    """
    student, teacher = network_with(merged), network_with(own)
    outputs: defaultdict[str, list[Tensor]] = defaultdict(list)
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    first, inputs_by_batch = peeked(inputs_of(batches, student))
    with ExitStack() as hooks, torch.no_grad():
        runs = [as_far_as(network, layers, first, hooks) for network in (teacher, student)]
        for name in layers:
            keeper = _keeper(outputs, name)
            hooks.enter_context(teacher.get_submodule(name).register_forward_hook(keeper, prepend=True))
            layer = student.get_submodule(name)
            hooks.enter_context(watch_inputs(layer, _fitter(sums, outputs, name, layer)))
        for inputs in inputs_by_batch:
            for run in runs:
                run(inputs)
            if any(outputs.values()):
                raise _unequal(next(name for name, left in outputs.items() if left))
    return sums


def fit_layers(merged: State, sums: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
    """``merged`` with each layer that all ``sums`` speak of fitted to the outputs wanted of it; see this file's top.

    ``sums`` are those of `output_sums`, one for each network. Raises `StateError` for sums of other shapes than the
    layer's, `ValueError` for none at all.
    """
    if not sums:
        raise ValueError("no sums to fit layers to")
    fitted = dict(merged)
    for layer in [name for name in sums[0] if all(name in each for each in sums)]:
        grams, products = zip(*(each[layer] for each in sums), strict=True)
        gram, across = torch.stack(grams).double().sum(0), torch.stack(products).double().sum(0)
        now = matrix_of(merged, layer).T
        if tuple(gram.shape) != (len(now), len(now)) or across.shape != now.shape:
            got = f"{tuple(gram.shape)} and {tuple(across.shape)}"
            raise StateError(f"sums of {layer!r}: expected {(len(now), len(now))} and {tuple(now.shape)}, got {got}")
        # Where nothing ever came in, the layer stays as it is.
        strength = HOLD * gram.diagonal().mean().item() or 1.0
        held = gram + strength * torch.eye(len(now), dtype=torch.float64)
        fitted |= parts_of(merged, layer, solve(held, across + strength * now).T)
    return fitted


def fitted_in_sequence(
    model: nn.Module, merged: State, states: Sequence[State], shares: Sequence[float], batches: Iterable[Batch]
) -> Iterator[dict[str, Tensor]]:
    """``merged`` after each layer in its turn is fitted to the outputs of aligned ``states``; the last is the result.

    Layers are those of `gram_sizes`. All networks run on the same ``batches``, which are gone through twice for each
    layer; ``shares`` weigh them. BatchNorm statistics are those of the batches: of ``merged`` they must be before, and
    after each layer those behind it are renewed as far as to the next. Raises what `output_sums` and `fit_layers` do.
    """
    batches = reusable(batches)
    state = dict(merged)
    layers = list(gram_sizes(model, first_inputs(batches, model)))
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        student = network_with(model, state)
        parts = [output_sums(student, network_with(model, each), batches, [layer])[layer] for each in states]
        weighed = [{layer: (share * gram, share * across)} for share, (gram, across) in zip(shares, parts, strict=True)]
        state = fit_layers(state, weighed)
        moments = batch_norm_moments(network_with(model, state), batches, until=following)
        state = write_moments(state, moments)
        yield state


def _keeper(outputs: defaultdict[str, list[Tensor]], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        channels = 1 if isinstance(layer, nn.Conv2d) else -1
        # A copy: what runs behind may write in place.
        rows = batched(layer, output.detach()).movedim(channels, -1).clone(memory_format=torch.contiguous_format)
        outputs[name].append(rows.flatten(0, -2))

    return keep


def _fitter(
    sums: dict[str, tuple[Tensor, Tensor]], outputs: defaultdict[str, list[Tensor]], name: str, layer: nn.Module
) -> Callable[[Tensor], None]:
    def add(inputs: Tensor) -> None:
        if not outputs[name]:
            raise _unequal(name)
        # What the other network put out at the same call.
        given = outputs[name].pop(0)
        first = 0
        for x in rows_of(layer, inputs.detach()):
            wanted = widened(given[first : first + len(x)])
            first += len(x)
            gram, across = (x.T @ x).cpu().double(), (x.T @ wanted).cpu().double()
            before = sums.get(name, (torch.zeros_like(gram), torch.zeros_like(across)))
            sums[name] = (before[0] + gram, before[1] + across)

    return add


def _unequal(name: str) -> StateError:
    return StateError(f"layer {name!r}: one network calls it more often than the other on the same samples")
