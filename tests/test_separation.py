"""Networks proved to be where their reference is: never a proof where weight matching would move a unit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignment import PermutationSpec, StateError, derive_spec, match_weights, permute, random_permutation
from alignment.separation import Separation
from alignment.spec import State
from models import Architecture, build
from tests.hand_specs import SPECS, mlp_spec, mlp_state, random_state
from tests.test_merge_many import seeded

Net = tuple[PermutationSpec, dict[str, Tensor]]


def moved(state: State, share: float, seed: int) -> dict[str, Tensor]:
    """Each floating tensor with noise of ``share`` of its norm."""
    generator = seeded(seed)

    def noisy(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        ratio = tensor.double().square().sum() / noise.square().sum().clamp(min=1e-18)
        return (tensor + share * ratio.sqrt() * noise).to(tensor.dtype)

    return {name: noisy(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def resnet() -> Net:
    model = build(Architecture("resnet20", (1, 8, 8), 10, 16, 8, "batch"), 0)
    return derive_spec(model, (torch.zeros(2, 1, 8, 8),)), dict(model.state_dict())


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.05, 0.2])
def test_what_is_proved_is_what_weight_matching_finds(resnet: Net, share: float) -> None:
    spec, reference = resnet
    candidate = moved(reference, share, 1)
    found, expected = Separation(spec, reference).at_home(candidate), match_weights(spec, reference, candidate)
    assert found is not None
    assert all(index.equal(expected.permutation[name]) for name, index in found.permutation.items())
    assert found.objective == pytest.approx(expected.objective, rel=1e-7)
    assert (found.gain, found.converged) == (0.0, True)


def test_a_permuted_network_is_not_at_home(resnet: Net) -> None:
    spec, reference = resnet
    permuted = permute(spec, random_permutation(spec, seeded(0)), moved(reference, 1e-3, 1))
    assert Separation(spec, reference).at_home(permuted) is None


def test_nor_is_one_in_which_two_units_changed_places(resnet: Net) -> None:
    spec, reference = resnet
    group = next(iter(spec.groups))
    swap = {name: torch.arange(units) for name, units in spec.groups.items()}
    swap[group] = torch.tensor([1, 0, *range(2, spec.groups[group])])
    assert Separation(spec, reference).at_home(permute(spec, swap, reference)) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_no_proof_where_a_unit_would_move(seed: int, share: float) -> None:
    generator = seeded(seed)
    reference = mlp_state((5, 12, 9, 3), generator)
    spec = mlp_spec(reference)
    # Some units lie close to others: where they lie, matching may well move them.
    reference["0.weight"][1] = reference["0.weight"][0] + 0.1
    candidate = moved(reference, share, seed + 1)
    if Separation(spec, reference).at_home(candidate) is not None:
        assert not any(match_weights(spec, reference, candidate).moved.values())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_shape_of_spec_is_proved_or_left_to_matching(spec: PermutationSpec) -> None:
    reference = random_state(spec, seeded(3))
    found = Separation(spec, reference).at_home(moved(reference, 1e-3, 4))
    if found is not None:
        expected = match_weights(spec, reference, moved(reference, 1e-3, 4))
        assert found.objective == pytest.approx(expected.objective, rel=1e-6)
        assert not any(expected.moved.values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_is_no_proof(resnet: Net, value: float) -> None:
    spec, reference = resnet
    weight = next(name for name in reference if name.endswith("conv1.weight"))
    spoilt = {**reference, weight: reference[weight].clone().index_fill_(0, torch.tensor(0), value)}
    assert Separation(spec, reference).at_home(spoilt) is None
    buffer = next(name for name in reference if name.endswith("running_mean"))
    with pytest.raises(StateError, match="not finite"):
        Separation(spec, reference).at_home({**reference, buffer: reference[buffer] * value})


def test_a_network_of_another_shape_is_an_error() -> None:
    wide, narrow = (dict(nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, 2)).state_dict()) for n in (5, 4))
    with pytest.raises(StateError, match="expected"):
        Separation(PermutationSpec.by_hand(wide, {"0.weight": ("P", None)}), wide).at_home(narrow)
