"""The last layer of a merged network, from sums over samples: label skew biases it, and no permutation mends that.

Sums are plain fp64 tensors under flat names, so that they pool over sites by addition, as moments do:

===========  ==========================  =================================================================
``gram``     (features + 1) squared      Σ φφᵀ, φ the inputs of the last layer with a 1 at their end
``targets``  (features + 1, classes)     Σ φyᵀ, y the class as a unit vector; its last row counts the classes
===========  ==========================  =================================================================
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from alignment.batches import labelled, network_with
from alignment.channels import PARTS, key_of
from alignment.errors import StateError
from alignment.hooks import watch_inputs, watch_outputs
from alignment.moments import accumulate
from alignment.solving import solve
from alignment.spec import State
from alignment.tracing.experiment import redrawn

GRAM, TARGETS = "gram", "targets"
# Of half precision, and of a sum over classes.
ALIKE = 1e-3


def feature_sums(
    model: nn.Module, head: str, batches: Iterable[tuple[Tensor, Tensor]], classes: int
) -> dict[str, Float64[Tensor, "features_and_one columns"]]:
    """The sums of ``model``'s features, the inputs of its layer ``head``, in eval mode; see the top of this file.

    ``batches`` are (inputs, class numbers). Raises `StateError` for a head that is not called on (samples, features),
    `BatchError` for inputs that are not finite, `ValueError` without batches.
    """
    sums: dict[str, Tensor] = {}
    for phi, targets in features_of(model, head, batches):
        labels = nn.functional.one_hot(targets, classes).double()
        accumulate(sums, {GRAM: phi.T @ phi, TARGETS: phi.T @ labels})
    if not sums:
        raise ValueError("no batches to measure on")
    return sums


def features_of(
    model: nn.Module, head: str, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Float64[Tensor, "samples features_and_one"], Tensor]]:
    """Of each batch, the inputs of the layer ``head`` in eval mode with a 1 at their end, and the class numbers.

    Raises `StateError` for a head that is not called on (samples, features), `BatchError` for inputs that are not
    finite.
    """
    network = network_with(model)
    caught: list[Tensor] = []

    with watch_inputs(network.get_submodule(head), caught.append):
        for inputs, targets in labelled(batches, network):
            caught.clear()
            with torch.no_grad():
                network(inputs)
            if len(caught) != 1 or caught[0].ndim != 2:
                raise StateError(f"layer {head!r}: expected to be called once on (samples, features)")
            features = caught[0].cpu().double()
            yield torch.cat((features, torch.ones(len(features), 1, dtype=torch.float64)), 1), targets.cpu()


def makes_outputs(model: nn.Module, head: str, inputs: Float[Tensor, "samples ..."]) -> bool:
    """Whether ``model`` puts out what its layer ``head`` does, but for a shift and a positive scale of each sample's.

    So logits come as they are, through a log-softmax or over a temperature, and any other way makes of the head what no
    sums over its inputs tell. Asked with other weights too: a norm behind the head begins as the identity, as does a
    bias of zeros. In eval mode; of a head that puts out the same for all classes nothing speaks against it.
    """
    network = network_with(model)
    if not _alike(*_heard(network, head, inputs)):
        return False
    network.load_state_dict(redrawn(network.state_dict(), torch.Generator().manual_seed(0)))
    try:
        outputs, logits = _heard(network, head, inputs)
    except Exception:
        # A network may compute with weights that it draws itself alone: then nothing more is told.
        return True
    overflows = isinstance(outputs, Tensor) and not bool(outputs.isfinite().all())
    return overflows or _alike(outputs, logits)


@torch.no_grad()
def _heard(network: nn.Module, head: str, inputs: Tensor) -> tuple[object, list[Tensor]]:
    """What ``network`` puts out, and what its layer ``head`` does at each call."""
    caught: list[Tensor] = []
    with watch_outputs(network.get_submodule(head), caught.append):
        outputs: object = network(inputs)
    return outputs, caught


def _alike(outputs: object, caught: Sequence[Tensor]) -> bool:
    if not isinstance(outputs, Tensor) or len(caught) != 1 or outputs.shape != caught[0].shape:
        return False
    one, other = (each.double() - each.double().mean(-1, keepdim=True) for each in (outputs, caught[0]))
    product, squares = (one * other).sum(-1), (one.square().sum(-1) * other.square().sum(-1)).sqrt()
    return bool((product >= squares * (1 - ALIKE)).all())


def ridge_head(sums: Mapping[str, Tensor], ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weight (classes, features) and bias of min Σ ‖Wφ + b − y‖² + r‖W‖².

    r is `shrinkage`. The bias is not shrunk: sums are centred.
    Of sums pooled over sites it is exactly the head that their samples together would give. Outputs estimate class
    probabilities and are no logits: scale them, see `scaled_head`.
    Raises `StateError` for sums of no samples or of shapes that do not belong together.
    """
    gram, targets = sums[GRAM].double(), sums[TARGETS].double()
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or targets.shape[:1] != gram.shape[:1]:
        raise StateError(
            f"feature sums of shapes {tuple(gram.shape)} and {tuple(targets.shape)} do not belong together"
        )
    count = gram[-1, -1]
    if not count > 0:
        raise StateError(f"feature sums of {count.item():g} samples")
    mean, share = gram[-1, :-1] / count, targets[-1] / count
    within = _within(gram)
    across = targets[:-1] - count * torch.outer(mean, share)
    strength = shrinkage(gram, ridge)
    weight = solve(within + strength * torch.eye(len(within), dtype=torch.float64), across).T
    return weight, share - weight @ mean


def shrinkage(gram: Float64[Tensor, "features_and_one features_and_one"], ridge: float) -> Float64[Tensor, ""]:
    """What ‖W‖² weighs against errors: ``ridge`` times the mean, over the features, of their Σ (φ − mean)².

    Where features never vary that is rounding, and 1e-12 times the mean of their Σ φ² takes its place.
    """
    spread = ridge * _within(gram).diagonal().mean()
    return torch.maximum(spread, 1e-12 * gram[:-1, :-1].diagonal().mean()) + torch.finfo(torch.float64).tiny


def _within(gram: Tensor) -> Tensor:
    """Σ (φ − mean)(φ − mean)ᵀ."""
    count = gram[-1, -1]
    mean = gram[-1, :-1] / count
    return gram[:-1, :-1] - count * torch.outer(mean, mean)


def counts_head(
    weights: Sequence[Tensor], counts: Float64[Tensor, "networks classes"], shares: Float64[Tensor, "networks"]
) -> Tensor:
    """Each class's row of the heads, averaged by how many samples of that class each network was trained on.

    A head that never saw a class has no say in it. ``shares`` decide on classes that nobody saw. Biases are rows of
    one number.
    """
    seen = counts.sum(0)
    usual = (shares / shares.sum())[:, None].expand_as(counts)
    by_class = torch.where(seen > 0, counts / torch.where(seen > 0, seen, 1.0), usual)
    stacked = torch.stack([weight.double() for weight in weights])
    along_rows = by_class.reshape(*by_class.shape, *[1] * (stacked.ndim - 2))
    return (along_rows * stacked).sum(0).to(weights[0].dtype)


def with_head(state: State, head: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """``state`` with the layer ``head`` replaced. Raises `StateError` when it has no such layer with a bias."""
    written = dict(state)
    for part, value in zip(PARTS, (weight, bias), strict=True):
        key = key_of(head, part)
        if key not in state or state[key].shape != value.shape:
            raise StateError(f"head {head!r}: the state has no {key!r} of shape {tuple(value.shape)}")
        written[key] = value.to(state[key].device, state[key].dtype)
    return written


def scaled_head(state: State, head: str, scale: float) -> dict[str, Tensor]:
    """``state`` with its logits times ``scale``: the inverse of a temperature (arXiv 1706.04599)."""
    keys = [key_of(head, part) for part in PARTS]
    return {name: tensor * scale if name in keys else tensor for name, tensor in state.items()}
