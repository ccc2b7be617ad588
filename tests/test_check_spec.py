"""`check_spec` measures what random permutations do to the outputs, and refuses a spec that changes them."""

from __future__ import annotations

import warnings
from typing import cast

import pytest
import torch
from torch import nn

from alignment import derive_spec, match_activations
from alignment.check import check_spec
from alignment.difference import difference
from alignment.errors import SpecError, StateError
from alignment.permutation import draws_that_tell
from alignment.spec import PermutationSpec
from tests.networks import mlp

VECTOR = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
SEVERAL = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))


def _spec(net: nn.Module, last: str | None) -> PermutationSpec:
    axes = {
        "0.weight": ("p", None),
        "0.bias": ("p",),
        "2.weight": ("q", "p"),
        "2.bias": ("q",),
        "4.weight": (None, last),
    }
    return PermutationSpec.by_hand(net.state_dict(), axes)


def test_a_right_spec_leaves_rounding_errors_only() -> None:
    net = mlp(4, 5, 6, 2)
    assert check_spec(net, _spec(net, "q"), (VECTOR,)) < 1e-5


def test_fp64_is_held_to_a_tighter_tolerance() -> None:
    net = mlp(4, 5, 6, 2).double()
    assert check_spec(net, _spec(net, "q"), (VECTOR.double(),)) < 1e-12


def test_half_precision_is_checked_in_single() -> None:
    net = mlp(4, 5, 6, 2).half()
    assert check_spec(net, _spec(net, "q"), (VECTOR.half(),)) < 1e-5


def test_a_wrong_spec_is_refused_with_its_size_and_the_way_out() -> None:
    net = mlp(4, 5, 6, 2)
    with pytest.raises(SpecError, match=r"outputs differ by .*allowed 0\.0001; derive it anew with derive_spec"):
        check_spec(net, _spec(net, None), (VECTOR,))


def test_the_tolerance_is_relative_to_the_largest_output() -> None:
    net = mlp(4, 5, 6, 2)
    assert check_spec(net, _spec(net, None), (VECTOR,), tolerance=100.0) > 1e-3


def test_one_seed_gives_one_answer() -> None:
    net, wrong = mlp(4, 5, 6, 2), _spec(mlp(4, 5, 6, 2), None)
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    one, same, other = (check_spec(net, wrong, (VECTOR,), generator=g, trials=1, tolerance=100.0) for g in seeds)
    assert one == same != other


def test_more_trials_find_at_least_as_much() -> None:
    net, wrong = mlp(4, 5, 6, 2), _spec(mlp(4, 5, 6, 2), None)

    def worst(trials: int) -> float:
        seed = torch.Generator().manual_seed(0)
        return check_spec(net, wrong, (VECTOR,), generator=seed, trials=trials, tolerance=100.0)

    assert worst(1) <= worst(5)


def test_a_spec_of_another_network_is_a_state_error() -> None:
    with pytest.raises(StateError, match="expected"):
        check_spec(mlp(4, 7, 6, 2), _spec(mlp(4, 5, 6, 2), "q"), (VECTOR,))


def test_the_network_is_left_as_it_was() -> None:
    net = mlp(4, 5, 6, 2)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    check_spec(net, _spec(net, "q"), (VECTOR,))
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert net.training


def test_a_network_that_cannot_be_copied_gets_its_weights_back() -> None:
    class Alone(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise RuntimeError("one of a kind")

    torch.manual_seed(0)
    net = nn.Sequential(Alone(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(SpecError):
        check_spec(net, _spec(net, None), (VECTOR,))
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert net.training


def test_differences_are_relative_to_each_tensor() -> None:
    found = difference(
        [torch.tensor([1.0, 4.0]), torch.tensor([100.0])], [torch.tensor([1.0, 5.0]), torch.tensor([110.0])]
    )
    assert found.absolute == 10.0
    assert found.relative == 0.25


@pytest.mark.parametrize(("value", "apart"), [(torch.nan, 0.0), (torch.inf, 0.0), (-torch.inf, 0.0)])
def test_equal_non_finite_values_do_not_differ(value: float, apart: float) -> None:
    x = torch.tensor([1.0, value])
    assert difference([x], [x.clone()]).absolute == apart


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_stops_being_finite_differs_infinitely(value: float) -> None:
    assert difference([torch.tensor([1.0])], [torch.tensor([value])]).absolute == torch.inf


def test_other_shapes_differ_infinitely() -> None:
    assert difference([torch.ones(2)], [torch.ones(3)]).relative == torch.inf


def test_complex_outputs_differ_in_either_part() -> None:
    assert difference([torch.tensor([1 + 1j])], [torch.tensor([1 + 3j])]).absolute == 2.0


@pytest.mark.parametrize("units", range(2, 9))
def test_small_groups_cannot_pass_by_luck(units: int) -> None:
    """Of two units every other random permutation leaves both where they are."""
    net = mlp(4, 5, units, 2)
    for seed in range(8):
        with pytest.raises(SpecError, match="the spec changes what the network computes"):
            check_spec(net, _spec(net, None), (SEVERAL,), generator=torch.Generator().manual_seed(seed), trials=1)


def test_how_many_draws_tell() -> None:
    sizes = {"one": 1, "two": 2, "three": 3, "many": 9}
    spec = PermutationSpec(sizes, {})
    assert [draws_that_tell(spec, [name]) for name in sizes] == [1, 14, 6, 1]
    assert draws_that_tell(spec, sizes) == 14


def _quantised(net: nn.Module) -> nn.Module:
    """``net`` with its linear layers as PyTorch's dynamic quantisation leaves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(nn.Module, torch.ao.quantization.quantize_dynamic(net, {nn.Linear}))  # pyright: ignore


def test_around_quantised_layers_the_rest_is_derived_and_checked() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), _quantised(mlp(6, 3)))
    spec = derive_spec(net, (VECTOR,))
    assert (spec.groups, spec.fixed["2.weight", 0]) == ({"0": 5}, "unknown operation quantized::linear_dynamic")
    assert check_spec(net, spec, (VECTOR,)) < 1e-5


def test_states_of_quantised_layers_are_refused_with_the_way_out() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), _quantised(mlp(5, 3)))
    state = dict(net.state_dict())
    with pytest.raises(StateError, match=r"does not fit Sequential: .*looks for '2\.0\.weight'.* before they"):
        match_activations(derive_spec(net, (VECTOR,)), net, state, state, [VECTOR])
