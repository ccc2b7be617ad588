"""A closed-form merge of each linear and convolutional layer, from the Gram matrices of its inputs.

RegMean (arXiv 2212.09849, equation 2): the layer W̄ whose outputs are nearest to those of all the networks' layers W_i,
each on its own inputs, min Σ_i ‖W̄ X_i − W_i X_i‖², is W̄ᵀ = (Σ G_i)⁻¹ Σ G_i W_iᵀ with G_i = X_i X_iᵀ. Off-diagonals of
G_i are shrunk by α (there α = 0.9), since layers are merged each on its own.

Or one layer after another, on the merged network's own features X̄_i, as in RegMean++ (arXiv 2508.03121), and
fitted to what each network's layer puts out on its own, Y_i = W_i X_i, and held with the strength s where it is, at
W̄₀: min Σ_i ‖W̄ X̄_i − Y_i‖² + s ‖W̄ − W̄₀‖², which is solved by
W̄ᵀ = (Σ X̄_i X̄_iᵀ + s)⁻¹ (Σ X̄_i Y_iᵀ + s W̄₀ᵀ). Layers behind then make up for what those before got wrong.

Grams are plain tensors by layer name; a bias is a weight of an input that is always 1. They are sums over samples.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, write_moments
from alignment.batches import Batch, first_inputs, inputs_of, network_with, peeked, reusable
from alignment.channels import key_of, named_modules
from alignment.errors import StateError
from alignment.hooks import watch_inputs
from alignment.moments import accumulate
from alignment.partial_run import as_far_as, calls_of
from alignment.precision import widened
from alignment.solving import solve
from alignment.spec import State
from alignment.tied import untied

HOLD = 1e-3
"""How firmly a layer is held where it is when it is fitted to outputs, as a share of its mean squared inputs."""
RIDGE = 1e-6
"""Share of its mean diagonal that is added to a summed Gram matrix, for inputs that are always 0."""
MOST_ALPHA = 0.999
"""Most that is left of off-diagonals. Sums in single precision, as sites take and send them, err by up to 4e-4 of
√(G_ii G_jj) with ten inputs or more: where inputs move together, or never vary, only that would tell them apart."""

MOST_PATCHES = 2**25
"""Most numbers in the patches that are laid out at once."""


def gram_sizes(model: nn.Module, example: Batch) -> dict[str, int]:
    """Rows of the Gram matrix of each layer, in the order in which ``model`` calls them when it runs on ``example``.

    `nn.Linear`, and `nn.Conv2d` with one group and zero padding, have one, if they are called: what only training
    uses, or the projection inside `nn.MultiheadAttention`, whose weights are read from outside, has no inputs. Left out
    is also what ``model`` has under another name too: written under one, it would be as it was under the other.
    """
    network = network_with(model)
    layers = {
        name: layer
        for name, layer in named_modules(network)
        if isinstance(layer, nn.Linear | nn.Conv2d) and _is_plain(layer)
    }
    # What holds its weights in another form, as `parametrizations` do, has none that could be set.
    weights = network.state_dict()
    layers = {name: layer for name, layer in layers.items() if key_of(name, "weight") in weights}
    called = untied(model, calls_of(network, layers, first_inputs([example], network)))
    return {name: prod(layers[name].weight.shape[1:]) + (layers[name].bias is not None) for name in called}


def _is_plain(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether outputs are weights times inputs, as they lie; a subclass may compute something else."""
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    usual = all(getattr(type(layer), name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward"))
    return usual and isinstance(layer.padding, tuple) and layer.groups == 1 and layer.padding_mode == "zeros"


def gram_sums(
    model: nn.Module, batches: Iterable[Batch], layers: Sequence[str]
) -> dict[str, Float64[Tensor, "inputs inputs"]]:
    """Σ x xᵀ over the inputs of each of ``layers``, over samples and positions; of a convolution, over its patches.

    ``model`` runs in eval mode, without gradients, and is not touched. Raises `ValueError` without batches.
    """
    network = network_with(model)
    sums: dict[str, Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name in layers:
            layer = network.get_submodule(name)
            hooks.enter_context(watch_inputs(layer, _adder(sums, name, layer)))
        for inputs in inputs_of(batches, network):
            network(inputs)
    return sums


def merge_layers(
    merged: State,
    states: Sequence[State],
    grams: Sequence[Mapping[str, Tensor]],
    alpha: float = 0.9,
) -> dict[str, Tensor]:
    """``merged`` with each layer that all ``grams`` speak of solved by least squares; see the top of this file.

    ``grams[i]`` is of the inputs of ``states[i]``, which must be aligned; ``alpha`` counts as `MOST_ALPHA` at most.
    They are looked at one after another, so that they may lie on a disk. Raises `StateError` for a Gram matrix of
    another size than the layer's inputs.
    """
    solved = dict(merged)
    shared = set[str].intersection(*map(set[str], grams))
    for layer in [name for name in grams[0] if name in shared]:
        networks = ((_matrix(state, layer), each[layer].double()) for state, each in zip(states, grams, strict=True))
        wanted = _solve(layer, networks, alpha)
        for key, part in _parts(merged, layer, wanted).items():
            solved[key] = part.reshape(merged[key].shape).to(merged[key].device, merged[key].dtype)
    return solved


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
    first, inputs_by_batch = peeked(batches, student)
    with ExitStack() as hooks, torch.no_grad():
        runs = [as_far_as(network, layers, first[:1], hooks) for network in (teacher, student)]
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
    layer's.
    """
    fitted = dict(merged)
    for layer in [name for name in sums[0] if all(name in each for each in sums)]:
        grams, products = zip(*(each[layer] for each in sums), strict=True)
        gram, across = torch.stack(grams).double().sum(0), torch.stack(products).double().sum(0)
        now = _matrix(merged, layer).T
        if tuple(gram.shape) != (len(now), len(now)) or across.shape != now.shape:
            got = f"{tuple(gram.shape)} and {tuple(across.shape)}"
            raise StateError(f"sums of {layer!r}: expected {(len(now), len(now))} and {tuple(now.shape)}, got {got}")
        # Where nothing ever came in, the layer stays as it is.
        strength = HOLD * gram.diagonal().mean().item() or 1.0
        held = gram + strength * torch.eye(len(now), dtype=torch.float64)
        wanted = solve(held, across + strength * now).T
        for key, part in _parts(merged, layer, wanted).items():
            fitted[key] = part.reshape(merged[key].shape).to(merged[key].device, merged[key].dtype)
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


def _matrix(state: State, layer: str) -> Tensor:
    """The layer's weights with one row for each output, its bias a last column."""
    weight, bias = _keys(layer)
    rows = state[weight].cpu().double().flatten(1)
    return torch.cat((rows, state[bias].cpu().double()[:, None]), 1) if bias in state else rows


def _parts(like: State, layer: str, matrix: Tensor) -> dict[str, Tensor]:
    """The inverse of `_matrix`."""
    weight, bias = _keys(layer)
    inputs = prod(like[weight].shape[1:])
    return {weight: matrix[:, :inputs], **({bias: matrix[:, inputs]} if bias in like else {})}


def _keys(layer: str) -> tuple[str, str]:
    return key_of(layer, "weight"), key_of(layer, "bias")


def _solve(layer: str, networks: Iterable[tuple[Tensor, Tensor]], alpha: float) -> Tensor:
    """The rows of a layer of which each network has rows and a Gram matrix."""
    alpha = min(alpha, MOST_ALPHA)
    sums: dict[str, Tensor] = {}
    for rows, gram in networks:
        size = rows.shape[1]
        if tuple(gram.shape) != (size, size):
            raise StateError(f"Gram matrix of {layer!r}: expected {(size, size)}, got {tuple(gram.shape)}")
        shrunk = alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())
        accumulate(sums, {"gram": shrunk, "across": shrunk @ rows.T, "rows": rows.T, "networks": gram.new_ones(())})
    # Where no input ever came, every answer is as good: the ridge then gives the mean of the networks.
    strength = RIDGE * (sums["gram"].diagonal().mean().item() or 1.0)
    held = sums["gram"] + strength * torch.eye(len(sums["gram"]), dtype=torch.float64)
    return solve(held, sums["across"] + strength * sums["rows"] / sums["networks"]).T


def _adder(sums: dict[str, Tensor], name: str, layer: nn.Module) -> Callable[[Tensor], None]:
    def add(inputs: Tensor) -> None:
        for x in _rows(layer, inputs.detach()):
            accumulate(sums, {name: (x.T @ x).cpu().double()})

    return add


def _keeper(outputs: defaultdict[str, list[Tensor]], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        channels = 1 if isinstance(layer, nn.Conv2d) else -1
        # A copy: what runs behind may write in place.
        rows = _batched(layer, output.detach()).movedim(channels, -1).clone(memory_format=torch.contiguous_format)
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
        for x in _rows(layer, inputs.detach()):
            wanted = widened(given[first : first + len(x)])
            first += len(x)
            gram, across = (x.T @ x).cpu().double(), (x.T @ wanted).cpu().double()
            before = sums.get(name, (torch.zeros_like(gram), torch.zeros_like(across)))
            sums[name] = (before[0] + gram, before[1] + across)

    return add


def _unequal(name: str) -> StateError:
    return StateError(f"layer {name!r}: one network calls it more often than the other on the same samples")


def _rows(layer: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """One row for each time that the layer's weights are applied; of a convolution, some samples at a time.

    Patches are as many times the inputs as a kernel has places: all at once they are what a site's memory goes to.
    In half precision sums of products would overflow: rows are in fp32 then.
    """
    inputs = _batched(layer, inputs)
    at_once = len(inputs)
    if isinstance(layer, nn.Conv2d):
        at_once = max(1, MOST_PATCHES // (inputs[0].numel() * prod(layer.kernel_size)))
    for part in map(widened, torch.split(inputs, at_once)):
        rows = _patches(layer, part) if isinstance(layer, nn.Conv2d) else part.flatten(0, -2)
        yield rows if layer.bias is None else torch.cat((rows, rows.new_ones(len(rows), 1)), 1)


def _batched(layer: nn.Module, tensor: Tensor) -> Tensor:
    """``tensor`` with an axis of samples before it, where a layer was given one sample alone."""
    return tensor[None] if tensor.ndim == (3 if isinstance(layer, nn.Conv2d) else 1) else tensor


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    assert isinstance(layer.padding, tuple)
    unfolded = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)
