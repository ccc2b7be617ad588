"""Data and states with a value that is not finite are refused where they are read, by name."""

import copy
import inspect
from collections.abc import Callable, Iterable
from math import isnan

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment import (
    AlignmentError,
    BatchError,
    StateError,
    batch_norm_moments,
    derive_spec,
    identity_permutation,
    interpolate,
    loss_barrier,
    match_activations,
    match_straight_through,
    match_weights,
    permute,
    recalibrate,
    repair,
)
from alignment.barrier import barrier_from_losses
from alignment.batches import inputs_of, labelled
from alignment.heads import feature_sums
from alignment.interpolate import normalised
from alignment.validate import check_finite

INPUTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(8) % 2
BATCH, BROKEN = (INPUTS, TARGETS), (INPUTS.masked_fill(INPUTS.max() == INPUTS, float("nan")), TARGETS)
State = dict[str, Tensor]


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2)).requires_grad_(False)


def infinite(state: State) -> State:
    return {**state, "3.weight": state["3.weight"] * torch.inf}


def test_a_batch_that_is_not_finite_is_refused_by_its_number(net: nn.Module) -> None:
    spec, state = derive_spec(net, (INPUTS,)), net.state_dict()
    other = {name: t + 0.1 if t.is_floating_point() else t for name, t in state.items()}
    batches = [BATCH, BROKEN]
    for read in (
        lambda: match_activations(spec, net, state, other, batches),
        lambda: match_straight_through(spec, net, state, other, batches, cross_entropy, steps=2),
        lambda: loss_barrier(net, state, state, batches, cross_entropy, points=2),
        lambda: repair(net, state, state, state, batches),
        lambda: batch_norm_moments(net, batches),
    ):
        with pytest.raises(BatchError, match="batch 1: its inputs hold a value that is not finite"):
            read()


@pytest.mark.parametrize("inputs", [(INPUTS, INPUTS), {"x": INPUTS}])
def test_inputs_that_are_no_tensor_are_refused_with_the_way_out(net: nn.Module, inputs: object) -> None:
    # Callers are not held to the annotations as tests are.
    unchecked: list[Callable[..., Iterable[object]]] = [inspect.unwrap(read) for read in (inputs_of, labelled)]
    said = f"batch 0: its inputs are of type {type(inputs).__name__}, expected one tensor"
    for read in unchecked:
        with pytest.raises(BatchError, match=said):
            next(iter(read([(inputs, TARGETS)], net)))
    with pytest.raises(BatchError, match="batch 0: its inputs are of type dict"):
        next(iter(unchecked[0]([{"x": INPUTS}], net)))


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ((INPUTS, TARGETS, TARGETS), "Tensor, Tensor, Tensor"),
        (INPUTS, "Tensor"),
        ((INPUTS, [0, 1]), "Tensor, list"),
        ((), "nothing"),
    ],
)
def test_batches_that_are_no_inputs_and_targets_are_refused_with_what_they_hold(
    net: nn.Module, batch: object, got: str
) -> None:
    # Callers are not held to the annotations as tests are.
    unchecked: Callable[..., Iterable[object]] = inspect.unwrap(labelled)
    with pytest.raises(BatchError, match=f"batch 1: expected inputs and their targets, two tensors, got {got}$"):
        list(unchecked([BATCH, batch], net))


@pytest.mark.parametrize("place", range(3))
def test_a_state_that_is_not_finite_is_refused_before_it_is_repaired(net: nn.Module, place: int) -> None:
    reference, aligned, merged = (
        infinite(net.state_dict()) if broken == place else net.state_dict() for broken in range(3)
    )
    role = ("reference", "aligned", "merged")[place]
    with pytest.raises(StateError, match=rf"{role}: tensor '3\.weight'"):
        repair(net, reference, aligned, merged, [BATCH])


@pytest.mark.parametrize("role", ["reference", "aligned"])
def test_a_state_that_is_not_finite_has_no_barrier(net: nn.Module, role: str) -> None:
    good, bad = net.state_dict(), infinite(net.state_dict())
    ends = (bad, good) if role == "reference" else (good, bad)
    with pytest.raises(StateError, match=rf"{role}: tensor '3\.weight'"):
        loss_barrier(net, *ends, [BATCH], cross_entropy, points=2)


def test_what_is_on_the_device_meta_is_refused_where_values_are_read(net: nn.Module) -> None:
    spec, state = derive_spec(net, (INPUTS,)), net.state_dict()
    hollow = copy.deepcopy(net).to("meta")
    with pytest.raises(AlignmentError, match=r"a Sequential whose tensor '0\.weight' is on the device meta.*to_empty"):
        match_activations(spec, hollow, state, state, [BATCH])
    with pytest.raises(StateError, match=r"candidate: tensor '0\.weight' is on the device meta"):
        match_weights(spec, state, hollow.state_dict())


def test_pure_maps_pass_such_values_through(net: nn.Module) -> None:
    spec, bad = derive_spec(net, (INPUTS,)), infinite(net.state_dict())
    assert permute(spec, identity_permutation(spec), bad)["3.weight"].isinf().all()
    assert not interpolate(bad, net.state_dict(), 0.5)["3.weight"].isfinite().any()


def test_a_last_layer_is_not_solved_from_what_is_not_finite(net: nn.Module) -> None:
    with pytest.raises(BatchError, match="batch 1: its inputs hold a value that is not finite"):
        feature_sums(net, "3", [BATCH, BROKEN], 2)
    torch.testing.assert_close(feature_sums(net, "3", [BATCH], 2)["targets"][-1], torch.tensor([4.0, 4.0]).double())


def test_a_path_whose_loss_is_not_a_number_is_infinitely_high() -> None:
    """Python's maximum passes over such a number."""
    path = barrier_from_losses((0.0, 0.5, 1.0), (0.7, float("nan"), 0.7), (1.0, 1.0, 1.0))
    assert (path.barrier, path.losses) == (float("inf"), (0.7, float("inf"), 0.7))
    assert isnan(barrier_from_losses((0.0, 1.0), (float("nan"), 0.7), (1.0, 1.0)).barrier)


def test_a_mean_without_weight_has_no_say() -> None:
    ends = {"w": torch.ones(1)}, {"w": torch.full((1,), torch.inf)}
    assert interpolate(*ends, 0.0)["w"].item() == 1.0
    assert interpolate(*ends, 1.0)["w"].item() == torch.inf


def test_weights_whose_sum_overflows_are_refused() -> None:
    with pytest.raises(ValueError, match="the sum of the weights is not finite"):
        normalised([1e308, 1e308], 2)


def test_statistics_that_the_state_has_no_room_for_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).half()
    nn.init.constant_(model.get_parameter("0.weight"), 300.0)
    with pytest.raises(StateError, match=r"moments of '1': its 'running_var' is not finite in torch\.float16"):
        recalibrate(model, [torch.linspace(-2, 2, 64).reshape(4, 1, 4, 4).half()])


def test_batches_without_samples_are_passed_over(net: nn.Module) -> None:
    empty = (INPUTS[:0], TARGETS[:0])
    state = net.state_dict()
    one, other = (
        loss_barrier(net, state, state, given, cross_entropy, points=2) for given in ([BATCH], [empty, BATCH])
    )
    assert one == other
    spec = derive_spec(net, (INPUTS,))
    assert match_activations(spec, net, state, state, [empty, BATCH]).moved == {"0": 0.0}
    with pytest.raises(ValueError, match="no batches to measure on"):
        batch_norm_moments(net, [empty])


def test_values_of_one_byte_are_looked_at() -> None:
    check_finite({"w": torch.ones(3).to(torch.float8_e4m3fn)}, "state")
    with pytest.raises(StateError, match="state: tensor 'w'"):
        check_finite({"w": torch.full((3,), torch.nan).to(torch.float8_e4m3fn)}, "state")
