"""The last layer by multinomial logistic regression on all sites' samples, a few gradients at a time.

A ridge head makes squared errors small, and its outputs are no logits. This one makes the loss small by which networks
are judged. It has no closed form: each step needs the sums of the head that the step before gave. Sums are plain fp64
tensors under flat names, which pool over sites by addition:

============  ========================  ============================================================================
``loss``      scalar                    Σ −log p_y, p the probabilities by the network's own last layer, in nats
``gradient``  (features + 1, classes)   Σ φ(p − y)ᵀ, its derivative; φ and y as in `alignment.heads`
============  ========================  ============================================================================
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alignment.heads import features_of, shrinkage
from alignment.moments import accumulate
from alignment.solving import cholesky, triangular_solve

LOSS, GRADIENT = "loss", "gradient"
Layer = tuple[Tensor, Tensor]


def logistic_sums(
    model: nn.Module, head: str, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Float64[Tensor, "..."]]:
    """The sums of ``model``, in eval mode, as its layer ``head`` is; see the top of this file.

    ``batches`` are (inputs, class numbers). Raises `StateError` for a head that is not called on (samples, features),
    `ValueError` without batches.
    """
    layer = model.get_submodule(head)
    weight, bias = (getattr(layer, part).detach().cpu().double() for part in ("weight", "bias"))
    rows = torch.cat((weight.T, bias[None]))
    sums: dict[str, Tensor] = {}
    for phi, targets in features_of(model, head, batches):
        logits = phi @ rows
        errors = logits.softmax(1) - nn.functional.one_hot(targets, len(bias))
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        accumulate(sums, {LOSS: loss, GRADIENT: phi.T @ errors})
    if not sums:
        raise ValueError("no batches to measure on")
    return sums


def logistic_head(
    start: Layer,
    gram: Float64[Tensor, "features_and_one features_and_one"],
    measure: Callable[[Layer], Mapping[str, Tensor] | None],
    steps: int,
    ridge: float = 1e-3,
) -> Layer:
    """Weight (classes, features) and bias of min Σ −log p_y + r/2 ‖W‖², as near as ``steps`` gradients come from
    ``start``: the layer of least objective among those that were measured.

    ``gram`` is Σ φφᵀ over the samples and r its `shrinkage`; the bias is not shrunk. ``measure`` gives the sums of the
    samples by a layer; None ends the search. The second derivative is nowhere above ½ Σ φφᵀ + r for each class (Böhning
    1992): that of one sample's loss by its logits, diag(p) − ppᵀ, has no eigenvalue above 2p(1 − p) ≤ ½. L-BFGS goes in
    the coordinates in which that bound is the identity, and begins with the step that cannot fail there.
    """
    pull = torch.full((len(gram), 1), shrinkage(gram, ridge).item(), dtype=torch.float64)
    pull[-1] = 0
    bound = gram / 2 + torch.diag(pull[:, 0])
    # Features that never vary would leave it singular.
    lower = cholesky(bound + torch.eye(len(bound), dtype=torch.float64) * 1e-9 * bound.diagonal().mean())
    origin = torch.cat((start[0].double().T, start[1].double()[None]))
    best = (float("inf"), origin)

    def rows_at(coordinates: Tensor) -> Tensor:
        return origin + triangular_solve(lower.T, coordinates, upper=True)

    def objective(coordinates: Tensor) -> tuple[float, Tensor]:
        nonlocal best, steps
        rows = rows_at(coordinates)
        sums = measure((rows[:-1].T, rows[-1])) if steps else None
        if sums is None:
            raise _OverError
        steps -= 1
        value = (sums[LOSS] + (pull * rows.square()).sum() / 2).item()
        best = min(best, (value, rows), key=lambda one: one[0])
        return value, triangular_solve(lower, sums[GRADIENT] + pull * rows, upper=False)

    with suppress(_OverError):
        _descend(objective, torch.zeros_like(origin))
    weight, bias = best[1][:-1].T, best[1][-1]
    return weight.clone(), bias.clone()


class _OverError(Exception):
    """Nothing more is measured."""


def _descend(objective: Callable[[Tensor], tuple[float, Tensor]], zero: Tensor) -> None:
    """Goes down from ``zero`` by L-BFGS until nothing is left to gain; the first step is that of the gradient."""
    value, gradient = objective(zero)
    # scipy's first step has length 1: so the unit is the gradient's length.
    unit = gradient.square().sum().sqrt().item()
    if unit == 0:
        return

    def scaled(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        at, slope = objective(torch.from_numpy(flat.copy()).view_as(zero) * unit) if flat.any() else (value, gradient)
        return at, (slope * unit).numpy().ravel()

    # Half a second to import: sites, which measure alone, do without.
    from scipy.optimize import minimize

    minimize(scaled, np.zeros(zero.numel()), jac=True, method="L-BFGS-B")
