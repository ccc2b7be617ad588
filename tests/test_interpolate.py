"""The straight path between two states, and the weighted mean."""

from typing import Any

import pytest
import torch
from torch import Tensor

from alignment.errors import StateError
from alignment.interpolate import interpolate, normalised, weighted_mean

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def state(dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.complex128).to(torch.complex128)
    return {
        "weight": (weight if dtype.is_complex else weight.real).to(dtype),
        "tracked": torch.tensor(seed),
        "mask": torch.tensor([seed % 2 == 0]),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_of_the_path_are_the_networks_themselves(dtype: torch.dtype, lam: float):
    ends = state(dtype, 0), state(dtype, 1)
    assert torch.equal(interpolate(*ends, lam)["weight"], ends[int(lam)]["weight"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_their_order_and_dtypes_are_the_references(dtype: torch.dtype):
    reference, candidate = state(dtype, 0), dict(reversed(state(dtype, 1).items()))
    between = interpolate(reference, candidate, 0.25)
    assert list(between) == list(reference)
    assert [tensor.dtype for tensor in between.values()] == [tensor.dtype for tensor in reference.values()]


def test_integers_and_booleans_are_copied_from_the_reference():
    reference = state(torch.float32, 4)
    between = interpolate(reference, state(torch.float32, 7), 0.9)
    assert (between["tracked"].item(), between["mask"].item()) == (4, True)
    between["tracked"] += 1
    assert reference["tracked"] == 4


def test_the_mean_is_taken_in_fp64():
    ends = {"w": torch.tensor([60000.0], dtype=torch.float16)}
    assert interpolate(ends, ends, 0.5)["w"].item() == 60000.0
    third = [{"w": torch.tensor([1e8, 1.0])}, {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([-1e8, 1.0])}]
    assert weighted_mean(third, [1.0, 1.0, 1.0])["w"].tolist() == [1.0, 3.0]


def test_a_network_is_in_the_middle_of_itself_to_the_last_bit():
    one = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(interpolate(one, one, 0.1)["w"], one["w"])


def test_the_inputs_are_not_changed():
    reference, candidate = state(torch.float64, 0), state(torch.float64, 1)
    before = reference["weight"].clone(), candidate["weight"].clone()
    interpolate(reference, candidate, 0.5)["weight"].zero_()
    assert torch.equal(reference["weight"], before[0])
    assert torch.equal(candidate["weight"], before[1])


def test_weights_are_normalised_and_equal_by_default():
    assert normalised([1.0, 3.0], 2) == [0.25, 0.75]
    assert normalised(None, 4) == [0.25] * 4


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "one weight for each"),
        ([], "one weight for each"),
        ([1.0, -1.0], "positive"),
        ([1.0, 0.0], "positive"),
        ([1.0, float("nan")], "positive and finite"),
        ([1.0, float("inf")], "positive and finite"),
    ],
)
def test_weights_that_are_no_weights_are_refused(weights: list[float], said: str):
    with pytest.raises(ValueError, match=said):
        normalised(weights, 2)


def test_states_that_differ_are_refused_by_tensor():
    reference = state(torch.float32, 0)
    with pytest.raises(StateError, match="'mask' is not in both state 0 and state 1"):
        interpolate(reference, {name: reference[name] for name in ("weight", "tracked")}, 0.5)
    with pytest.raises(StateError, match=r"'weight' has shape \(5, 3\) in state 0, \(3, 5\) in state 1"):
        interpolate(reference, reference | {"weight": reference["weight"].T}, 0.5)
    # What `get_extra_state` gives.
    other: dict[str, Any] = {**reference, "mask": {"seen": 2}}
    for pair in ([reference, other], [other, reference]):
        with pytest.raises(StateError, match="'mask' is a tensor in one of state 0 and state 1, and none in the other"):
            weighted_mean(pair, [0.5, 0.5])
