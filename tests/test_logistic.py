"""The last layer by logistic regression from gradients: pooled, they give the head that pooled data would."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from alignment.heads import GRAM, feature_sums, ridge_head, shrinkage, with_head
from alignment.logistic import GRADIENT, LOSS, Layer, logistic_head, logistic_sums
from alignment.moments import pool_moments
from alignment.spec import State
from tests.networks import TanhClassifier

N, FEATURES, CLASSES = 90, 5, 3


Batches = list[tuple[Tensor, Tensor]]


def task() -> tuple[TanhClassifier, list[Batches]]:
    """A network, and samples of three sites whose labels hardly overlap."""
    torch.manual_seed(0)
    model = TanhClassifier(FEATURES, CLASSES)
    model.double()
    inputs = torch.randn(N, 4, dtype=torch.float64)
    targets = (model.body(inputs)[:, :CLASSES] + 0.5 * torch.randn(N, CLASSES)).argmax(1)
    order = targets.argsort()
    return model, [[(inputs[rows], targets[rows])] for rows in (order[:20], order[20:50], order[50:])]


def measured(model: nn.Module, sites: list[Batches], layer: Layer) -> Mapping[str, Tensor]:
    state: State = with_head(model.state_dict(), "fc", *layer)
    model.load_state_dict(dict(state))
    return pool_moments([logistic_sums(model, "fc", batches) for batches in sites])


def pooled(sites: list[Batches]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*(batch for (batch,) in sites), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def test_the_gradient_is_that_of_the_loss() -> None:
    model, sites = task()
    inputs, targets = pooled(sites)
    loss = nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
    loss.backward()
    sums = pool_moments([logistic_sums(model, "fc", batches) for batches in sites])
    assert sums[LOSS].item() == pytest.approx(loss.item())
    assert sums[GRADIENT][:-1].T.allclose(given(model.fc.weight.grad))
    assert sums[GRADIENT][-1].allclose(given(model.fc.bias.grad))


def test_batches_do_not_matter() -> None:
    model, ((batch,), *_) = task()
    whole = logistic_sums(model, "fc", [batch])
    parts = logistic_sums(model, "fc", [(batch[0][k : k + 7], batch[1][k : k + 7]) for k in range(0, 20, 7)])
    assert all(whole[name].allclose(parts[name]) for name in whole)


def test_gradients_of_apart_sites_give_the_regression_of_pooled_data() -> None:
    model, sites = task()
    sums = pool_moments([feature_sums(model, "fc", batches, CLASSES) for batches in sites])
    strength = shrinkage(sums[GRAM], 0.01).item()
    weight, bias = logistic_head(
        ridge_head(sums), sums[GRAM], lambda layer: measured(model, sites, layer), 200, ridge=0.01
    )
    inputs, targets = pooled(sites)
    features = model.body(inputs).tanh().detach()
    peer: Any = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000)
    peer.fit(features.numpy(), targets.numpy())
    # One constant for all classes changes no probability.
    assert weight.allclose(torch.from_numpy(peer.coef_), atol=1e-3)
    assert (bias - bias.mean()).allclose(torch.from_numpy(peer.intercept_ - peer.intercept_.mean()), atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_each_step_costs_one_measurement_and_none_makes_it_worse(steps: int) -> None:
    model, sites = task()
    sums = pool_moments([feature_sums(model, "fc", batches, CLASSES) for batches in sites])
    losses: list[float] = []

    def measure(layer: Layer) -> Mapping[str, Tensor]:
        found = measured(model, sites, layer)
        losses.append(found[LOSS].item())
        return found

    start = (torch.zeros(CLASSES, FEATURES), torch.zeros(CLASSES))
    layer = logistic_head(start, sums[GRAM], measure, steps, ridge=0.0)
    assert len(losses) == steps
    assert measured(model, sites, layer)[LOSS].item() == pytest.approx(min(losses))
    assert losses == sorted(losses, reverse=True)


def test_the_second_derivative_is_below_the_bound() -> None:
    """Without which a step of the gradient could fail."""
    model, sites = task()
    inputs, targets = pooled(sites)
    phi = torch.cat((model.body(inputs).tanh().detach(), torch.ones(N, 1)), 1)
    gram = phi.T @ phi
    for scale in (0.0, 1.0, 10.0):
        rows = scale * torch.randn(FEATURES + 1, CLASSES, dtype=torch.float64)

        def loss(rows: Tensor) -> Tensor:
            return nn.functional.cross_entropy(phi @ rows, targets, reduction="sum")

        curvature: Any = torch.autograd.functional.hessian(loss, rows)
        size = rows.numel()
        bound = torch.einsum("ij,kl->ikjl", gram / 2, torch.eye(CLASSES)).reshape(size, size)
        assert torch.linalg.eigvalsh(bound - curvature.reshape(size, size)).min() > -1e-9


def test_without_a_measurement_it_is_where_it_began() -> None:
    start = (torch.ones(CLASSES, FEATURES), torch.ones(CLASSES))
    gram = torch.eye(FEATURES + 1, dtype=torch.float64)
    weight, bias = logistic_head(start, gram, lambda layer: None, 8)
    assert torch.equal(weight, start[0].double())
    assert torch.equal(bias, start[1].double())


def test_features_that_never_vary_do_no_harm() -> None:
    model, sites = task()
    model.body.weight.data[0] = 0
    sums = pool_moments([feature_sums(model, "fc", batches, CLASSES) for batches in sites])
    start = ridge_head(sums)
    layer = logistic_head(start, sums[GRAM], lambda layer: measured(model, sites, layer), 8)
    assert measured(model, sites, layer)[LOSS] < measured(model, sites, start)[LOSS]


def test_no_batches_are_an_error() -> None:
    with pytest.raises(ValueError, match="no batches"):
        logistic_sums(TanhClassifier(FEATURES, CLASSES), "fc", [])
