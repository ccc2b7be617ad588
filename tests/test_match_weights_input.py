"""What `match_weights` accepts, refuses and promises whatever the network."""

from typing import cast

import pytest
import torch
from torch import Tensor

from alignment.errors import SpecError, StateError
from alignment.matching import Matching
from alignment.permutation import identity_permutation, invert, permute, random_permutation
from alignment.spec import PermutationSpec
from alignment.weight_matching import match_weights
from tests.hand_specs import SPECS, mlp_spec, mlp_state, random_state

State = dict[str, Tensor]


@pytest.fixture
def pair() -> tuple[PermutationSpec, State, State]:
    generator = torch.Generator().manual_seed(0)
    reference, candidate = (mlp_state((6, 9, 7, 3), generator) for _ in range(2))
    return mlp_spec(reference), reference, candidate


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_a_value_that_is_not_finite_is_refused_by_name(
    pair: tuple[PermutationSpec, State, State], role: str, value: float
) -> None:
    spec, reference, candidate = pair
    (reference if role == "reference" else candidate)["1.weight"][2, 3] = value
    with pytest.raises(StateError, match=rf"{role}.*'1\.weight'"):
        match_weights(spec, reference, candidate)


def test_a_missing_tensor_is_refused_by_name(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    del candidate["1.bias"]
    with pytest.raises(StateError, match=r"candidate.*'1\.bias'"):
        match_weights(spec, reference, candidate)


def test_a_tensor_that_only_one_state_has_is_refused_by_name(
    pair: tuple[PermutationSpec, State, State],
) -> None:
    spec, reference, candidate = pair
    candidate["counter"] = torch.tensor(3)
    with pytest.raises(StateError, match="'counter'"):
        match_weights(spec, reference, candidate)


def test_a_misshapen_tensor_is_refused_by_name(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    candidate["0.weight"] = torch.randn(9, 7)
    with pytest.raises(StateError, match=r"candidate.*'0\.weight'.*\(9, 7\).*\(9, 6\)"):
        match_weights(spec, reference, candidate)


def test_a_start_that_is_no_permutation_is_refused(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    start = {**identity_permutation(spec), "P1": torch.zeros(7, dtype=torch.int64)}
    with pytest.raises(SpecError, match="P1"):
        match_weights(spec, reference, candidate, start)


def test_states_may_differ_in_dtype(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    half = {name: tensor.half() for name, tensor in reference.items()}
    assert match_weights(spec, half, reference).gain == 0
    assert match_weights(spec, half, {n: t.double() for n, t in candidate.items()}).gain > 0


def test_half_precision_is_matched_as_its_values_in_single_precision(
    pair: tuple[PermutationSpec, State, State],
) -> None:
    spec, states = pair[0], pair[1:]
    halves = [{name: tensor.bfloat16() for name, tensor in state.items()} for state in states]
    singles = [{name: tensor.float() for name, tensor in state.items()} for state in halves]
    narrow, wide = (match_weights(spec, both[0], both[1]) for both in (halves, singles))
    assert narrow.objective == wide.objective


def test_neither_state_nor_start_is_written_to(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    start = random_permutation(spec, torch.Generator().manual_seed(1))
    before = [{n: t.clone() for n, t in x.items()} for x in (reference, candidate, start)]
    match_weights(spec, reference, candidate, start, restarts=3)
    for kept, now in zip(before, (reference, candidate, start), strict=True):
        assert all(torch.equal(kept[name], now[name]) for name in kept)


def test_buffers_and_integers_are_no_evidence() -> None:
    spec = PermutationSpec.by_hand(
        {"weight": torch.zeros(4, 2), "mean": torch.zeros(4), "count": torch.zeros(4, dtype=torch.int64)},
        {"weight": ("P", None), "mean": ("P",), "count": ("P",)},
        frozenset({"mean"}),
    )
    weight = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    flip = {"mean": torch.tensor([0.0, 0.0, 0.0, 99.0]), "count": torch.tensor([0, 0, 0, 99])}
    flop = {"mean": torch.tensor([99.0, 0.0, 0.0, 0.0]), "count": torch.tensor([99, 0, 0, 0])}
    matching = match_weights(spec, {"weight": weight, **flip}, {"weight": weight + 0.01, **flop})
    assert matching.moved == {"P": 0.0}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_weights_are_evidence_in_both_their_parts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"into": torch.randn(6, 4, dtype=dtype, generator=generator), "bias": torch.randn(6, generator=generator)}
    state["out"] = torch.randn(3, 6, dtype=dtype, generator=generator)
    spec = PermutationSpec.by_hand(state, {"into": ("P", None), "bias": ("P",), "out": (None, "P")})
    # Units that differ in their imaginary parts alone.
    state["into"] = torch.complex(state["into"].real[:1].expand(6, 4), state["into"].imag)
    planted = random_permutation(spec, generator)
    matching = match_weights(spec, state, permute(spec, planted, state))
    assert torch.equal(matching.permutation["P"], planted["P"].argsort())
    norms = sum(t.abs().double().square().sum().item() for t in state.values())
    assert matching.objective == pytest.approx(norms)


def test_a_complex_value_that_is_not_finite_is_refused_by_name() -> None:
    state = {"weight": torch.ones(3, 2, dtype=torch.complex64)}
    spec = PermutationSpec.by_hand(state, {"weight": ("P", None)})
    with pytest.raises(StateError, match=r"candidate.*'weight'"):
        match_weights(spec, state, {"weight": state["weight"] * complex(1, float("inf"))})


@pytest.mark.parametrize("restarts", [0, -1])
def test_no_climb_at_all_is_refused(pair: tuple[PermutationSpec, State, State], restarts: int) -> None:
    with pytest.raises(ValueError, match=f"restarts must be 1 or more, got {restarts}"):
        match_weights(*pair, restarts=restarts)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_one_seed_gives_one_answer(spec: PermutationSpec) -> None:
    generator = torch.Generator().manual_seed(5)
    reference, candidate = random_state(spec, generator), random_state(spec, generator)
    first, second = (
        match_weights(spec, reference, candidate, None, torch.Generator().manual_seed(9), restarts=4) for _ in range(2)
    )
    assert first.objective == second.objective
    assert all(torch.equal(first.permutation[name], second.permutation[name]) for name in spec.groups)


def test_a_network_in_which_nothing_moves_keeps_its_identity() -> None:
    reference, candidate = ({"weight": torch.full((2, 3), value)} for value in (1.0, 2.0))
    matching = match_weights(PermutationSpec.by_hand(reference, {}), reference, candidate)
    assert (dict(matching.permutation), matching.objective, matching.gain) == ({}, 12.0, 0.0)


def test_more_restarts_never_end_lower(pair: tuple[PermutationSpec, State, State]) -> None:
    objectives = [match_weights(*pair, restarts=restarts).objective for restarts in range(1, 21)]
    assert objectives == sorted(objectives)
    assert objectives[-1] > objectives[0]


def test_ties_keep_the_incumbent(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, _ = pair
    zeros = {name: torch.zeros_like(tensor) for name, tensor in reference.items()}
    start = random_permutation(spec, torch.Generator().manual_seed(2))
    matching = match_weights(spec, reference, zeros, start)
    assert matching.sweeps == 1
    assert all(torch.equal(matching.permutation[name], start[name]) for name in start)


def test_a_tolerance_ends_the_ascent_early(pair: tuple[PermutationSpec, State, State]) -> None:
    start = random_permutation(pair[0], torch.Generator().manual_seed(2))
    loose = match_weights(*pair, start, tolerance=10.0)
    assert (loose.sweeps, loose.converged) == (1, True)
    assert loose.objective < match_weights(*pair, start).objective


def test_a_cut_ascent_says_that_it_did_not_converge(pair: tuple[PermutationSpec, State, State]) -> None:
    cut = match_weights(*pair, random_permutation(pair[0], torch.Generator().manual_seed(2)), max_sweeps=1)
    assert (cut.sweeps, cut.converged) == (1, False)
    assert match_weights(*pair).converged


def test_the_number_of_threads_changes_nothing_where_products_are_large_enough_to_be_shared() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, candidate = (mlp_state((300, 512, 400, 10), generator) for _ in range(2))
    found: list[Matching] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(match_weights(mlp_spec(reference), reference, candidate))
    finally:
        torch.set_num_threads(before)
    for matching in found[1:]:
        assert matching.objective == pytest.approx(found[0].objective, rel=1e-9)
        assert all(torch.equal(index, matching.permutation[name]) for name, index in found[0].permutation.items())


def test_tensors_that_require_gradients_are_matched_as_others(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, candidate = pair
    found = match_weights(spec, reference, candidate)
    left, right = ({name: t.clone().requires_grad_() for name, t in s.items()} for s in (reference, candidate))
    again = match_weights(spec, left, right)
    assert all(torch.equal(index, again.permutation[name]) for name, index in found.permutation.items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_fp8_are_matched_as_their_values_are(
    pair: tuple[PermutationSpec, State, State], dtype: torch.dtype
) -> None:
    spec, *states = pair
    left, right = ({name: tensor.to(dtype) for name, tensor in state.items()} for state in states)
    wide = [{name: tensor.float() for name, tensor in state.items()} for state in (left, right)]
    found = match_weights(spec, left, right)
    again = match_weights(spec, wide[0], wide[1])
    assert found.objective == again.objective
    assert all(torch.equal(index, again.permutation[name]) for name, index in found.permutation.items())
    assert match_weights(spec, left, left).sweeps == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e24, 1e30])
def test_a_permuted_copy_is_found_at_any_scale(pair: tuple[PermutationSpec, State, State], scale: float) -> None:
    """Squares of such weights are nothing, or infinite, in fp32."""
    spec, reference, _ = pair
    scaled = {name: tensor * scale for name, tensor in reference.items()}
    planted = random_permutation(spec, torch.Generator().manual_seed(3))
    found = match_weights(spec, scaled, permute(spec, planted, scaled))
    inverse = invert(spec, planted)
    assert all(torch.equal(index, inverse[name]) for name, index in found.permutation.items())


def test_a_layer_without_inputs_is_matched_by_its_bias() -> None:
    """A network for optional features, of which there are none here."""
    state = {"bare.weight": torch.empty(4, 0), "bare.bias": torch.randn(4), "out.weight": torch.randn(3, 4)}
    spec = PermutationSpec.by_hand(state, {"bare.weight": ("p", None), "bare.bias": ("p",), "out.weight": (None, "p")})
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    found = match_weights(spec, state, permute(spec, planted, state))
    assert torch.equal(found.permutation["p"], invert(spec, planted)["p"])


def test_what_is_no_tensor_is_left_out_of_a_spec_by_hand(pair: tuple[PermutationSpec, State, State]) -> None:
    spec, reference, _ = pair
    extra = cast(State, {**reference, "1._extra_state": {"version": 2}})
    assert PermutationSpec.by_hand(extra, {"0.weight": ("p", None)}).axes.keys() == spec.axes.keys()
