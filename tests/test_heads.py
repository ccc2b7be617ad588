"""The last layer from sums: pooled sums give exactly the head that pooled data would."""

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from alignment.errors import StateError
from alignment.heads import counts_head, feature_sums, makes_outputs, ridge_head, scaled_head, with_head
from alignment.logistic import logistic_sums
from alignment.moments import pool_moments
from tests.networks import TanhClassifier

N, FEATURES, CLASSES = 60, 5, 3


def task() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        TanhClassifier(FEATURES, CLASSES).double(),
        torch.randn(N, 4, dtype=torch.float64),
        torch.randint(CLASSES, (N,)),
    )


def test_pooled_sums_give_the_ridge_head_of_pooled_data() -> None:
    model, inputs, targets = task()
    order = targets.argsort()  # the sites' labels hardly overlap
    parts = [
        feature_sums(model, "fc", [(inputs[rows], targets[rows])], CLASSES)
        for rows in (order[:17], order[17:40], order[40:])
    ]
    weight, bias = ridge_head(pool_moments(parts), ridge=0.1)
    expected_weight, expected_bias = direct(model, inputs, targets, 0.1)
    assert weight.allclose(expected_weight, atol=1e-10)
    assert bias.allclose(expected_bias, atol=1e-10)


def direct(model: nn.Module, inputs: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The same by least squares on the samples themselves, penalty as extra rows."""
    features = model.get_submodule("body")(inputs).tanh().detach()
    labels = nn.functional.one_hot(targets, CLASSES).double()
    x, y = features - features.mean(0), labels - labels.mean(0)
    strength = ridge * x.square().sum(0).mean()
    rows = torch.cat((x, strength.sqrt() * torch.eye(FEATURES, dtype=torch.float64)))
    wanted = torch.cat((y, torch.zeros(FEATURES, CLASSES, dtype=torch.float64)))
    solved = cast(Tensor, torch.linalg.lstsq(rows, wanted).solution)
    return solved.T, labels.mean(0) - solved.T @ features.mean(0)


def test_batches_do_not_matter() -> None:
    model, inputs, targets = task()
    whole = feature_sums(model, "fc", [(inputs, targets)], CLASSES)
    parts = feature_sums(model, "fc", [(inputs[k : k + 7], targets[k : k + 7]) for k in range(0, N, 7)], CLASSES)
    assert all(whole[name].allclose(parts[name]) for name in whole)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16], ids=str)
def test_class_numbers_of_any_width_give_the_same_sums(dtype: torch.dtype) -> None:
    model, inputs, targets = task()
    for measure in (logistic_sums, partial(feature_sums, classes=CLASSES)):
        wide, narrow = (measure(model, "fc", [(inputs, labels)]) for labels in (targets, targets.to(dtype)))
        assert all(narrow[name].equal(tensor) for name, tensor in wide.items())


def test_the_last_row_counts_the_classes() -> None:
    model, inputs, targets = task()
    sums = feature_sums(model, "fc", [(inputs, targets)], CLASSES)
    assert sums["targets"][-1].tolist() == torch.bincount(targets, minlength=CLASSES).tolist()
    assert sums["gram"][-1, -1] == N


def test_features_that_never_vary_do_no_harm() -> None:
    model, inputs, targets = task()
    body = model.get_submodule("body")
    assert isinstance(body, nn.Linear)
    with torch.no_grad():
        body.weight[0] = 0
    weight, bias = ridge_head(feature_sums(model, "fc", [(inputs, targets)], CLASSES))
    assert weight.isfinite().all()
    assert weight[:, 0].abs().max() < 1e-6
    assert bias.isfinite().all()


def test_a_new_head_computes_what_was_solved() -> None:
    model, inputs, targets = task()
    weight, bias = ridge_head(feature_sums(model, "fc", [(inputs, targets)], CLASSES))
    model.load_state_dict(scaled_head(with_head(model.state_dict(), "fc", weight, bias), "fc", 3.0))
    features = model.get_submodule("body")(inputs).tanh()
    assert model(inputs).allclose(3 * (features @ weight.T + bias))


def test_each_class_is_averaged_over_those_who_saw_it() -> None:
    counts = torch.tensor([[10, 5, 0], [0, 15, 0]]).double()
    shares = torch.tensor([1, 3]).double()
    biases = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 5.0])]
    assert counts_head(biases, counts, shares).tolist() == [1.0, 2.5, 4.0]
    weights = [bias[:, None].expand(3, 2) for bias in biases]
    assert counts_head(weights, counts, shares).tolist() == [[1.0, 1.0], [2.5, 2.5], [4.0, 4.0]]


def test_what_does_not_fit_says_so() -> None:
    model, inputs, targets = task()
    sums = feature_sums(model, "fc", [(inputs, targets)], CLASSES)
    with pytest.raises(StateError, match="do not belong together"):
        ridge_head({"gram": sums["gram"][:-1], "targets": sums["targets"]})
    with pytest.raises(StateError, match="feature sums of 0 samples"):
        ridge_head({name: tensor * 0 for name, tensor in sums.items()})
    with pytest.raises(StateError, match="expected to be called once on"):
        feature_sums(nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3)).double(), "1", [(inputs, targets)], 3)
    with pytest.raises(StateError, match=r"the state has no 'fc.bias'"):
        with_head({"fc.weight": torch.zeros(3, 5)}, "fc", torch.zeros(3, 5), torch.zeros(3))
    with pytest.raises(ValueError, match="no batches"):
        feature_sums(model, "fc", [], CLASSES)


class Behind(nn.Module):
    """A network with something behind its last layer."""

    def __init__(self, network: nn.Module, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.behind = network, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.network(x))


class Shifted(nn.Module):
    """Adds what was trained."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift.double())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class Heated(nn.Module):
    """Divides by what was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.temperature


BEHIND: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "as it is": (lambda z: z, True),
    "log-softmax": (lambda z: z.log_softmax(1), True),
    "temperature": (lambda z: z / 0.07, True),
    "negative": (lambda z: -z, False),
    "other classes": (lambda z: z.flip(1), False),
    "cut off": (lambda z: (5 * z).tanh(), False),
    "fewer": (lambda z: z[:, :2], False),
    "a norm": (nn.BatchNorm1d(CLASSES).double(), False),
    "a bias of zeros": (Shifted(torch.zeros(CLASSES)), False),
    "a shift of all": (Shifted(torch.zeros(())), True),
    "a trained temperature": (Heated(), True),
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_a_layer_puts_out_is_the_networks_up_to_shift_and_scale(name: str) -> None:
    model, inputs, _ = task()
    behind, makes = BEHIND[name]
    assert makes_outputs(Behind(model, behind), "network.fc", inputs) == makes


def test_of_a_layer_that_tells_no_class_from_another_nothing_is_held_against_it() -> None:
    model, inputs, _ = task()
    nn.init.zeros_(model.get_submodule("fc").get_parameter("weight"))
    nn.init.zeros_(model.get_submodule("fc").get_parameter("bias"))
    assert makes_outputs(model, "fc", inputs)


def test_features_none_of_which_varies_leave_the_shares_of_the_classes() -> None:
    phi = torch.tensor([0.1, 0.7, 1.3, 1.0], dtype=torch.float64).expand(100, 4)
    classes = nn.functional.one_hot(torch.arange(100) % CLASSES, CLASSES).double()
    weight, bias = ridge_head({"gram": phi.T @ phi, "targets": phi.T @ classes})
    outputs = phi[0, :-1] @ weight.T + bias
    assert weight.abs().max() < 1
    assert torch.allclose(outputs, classes.mean(0), atol=1e-6)


def test_counts_may_be_shares_of_a_sample() -> None:
    rows = [torch.ones(2, 3), torch.zeros(2, 3)]
    counts = torch.tensor([[0.25, 3.0], [0.25, 1.0]], dtype=torch.float64)
    found = counts_head(rows, counts, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[0.5] * 3, [0.75] * 3]))
