"""Each shortcut of `match_weights` gives what the long way gives, and is really taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignment import plain_group
from alignment.ascent import SAME, Ascent
from alignment.assignment import assign
from alignment.certificate import certain_assignment
from alignment.copies import are_alike, recognise_copy
from alignment.flat import Position, edges_of, flat_index, flatten
from alignment.pair import Pair
from alignment.permutation import identity_permutation, permute, permute_block, random_permutation
from alignment.similarity import Similarity
from alignment.spec import Factor, PermutationSpec
from alignment.tracing import derive_spec
from alignment.weight_matching import match_weights
from tests.hand_specs import SPECS, mlp_spec, mlp_state, random_state
from tests.oracle import similarity

seeds = st.integers(0, 2**32)
few = settings(max_examples=10, deadline=None)


def mlp_pair(seed: int, widths: tuple[int, ...] = (8, 20, 16, 5)) -> tuple[Pair, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    reference, candidate = mlp_state(widths, generator), mlp_state(widths, generator)
    return Pair(mlp_spec(reference), reference, candidate), generator


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@few
@given(seeds)
def test_a_flat_block_moves_as_the_block_does(spec: PermutationSpec, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state, permutation = random_state(spec, generator), random_permutation(spec, generator)
    for block in spec.blocks:
        flat = flatten(block)
        moved = flat.of(state[block.tensor])
        for axis, mover in enumerate(flat.movers):
            if mover is not None:
                moved = moved.index_select(axis, flat_index(mover, permutation))
        expected = permute_block(block, permutation, state[block.tensor])
        assert torch.equal(moved, expected.permute(flat.order).reshape(flat.shape))


@few
@given(seeds, st.integers(0, 16))
def test_an_updated_similarity_is_the_one_computed_anew(seed: int, n_moved: int) -> None:
    pair, _ = mlp_pair(seed)
    position = Position(pair.spec, identity_permutation(pair.spec))
    kept = Similarity(pair, [edge for _, edge in edges_of([flatten(b) for b in pair.blocks], "P0")], 20)
    kept.matrix(position)
    shifted = torch.arange(16)
    shifted[:n_moved] = shifted[:n_moved].roll(1)
    position.move({"P1": shifted})
    expected = similarity(pair.spec, pair.reference, pair.candidate, position.permutation, "P0")
    assert torch.allclose(kept.matrix(position).double(), expected, atol=1e-4)


@few
@given(seeds, st.floats(0, 1.5))
def test_a_certain_assignment_is_the_best_one(seed: int, noise: float) -> None:
    pair, generator = mlp_pair(seed, (300, 20, 5))
    planted = random_permutation(pair.spec, generator)
    copy = permute(pair.spec, planted, pair.reference)
    noisy = {n: t + noise * torch.randn(t.shape, generator=generator) for n, t in copy.items()}
    pair = Pair(pair.spec, pair.reference, noisy)
    edges = [edge for _, edge in edges_of([flatten(block) for block in pair.blocks], "P0")]
    position = Position(pair.spec, identity_permutation(pair.spec))
    found = certain_assignment(pair, edges, position)
    expected = similarity(pair.spec, pair.reference, noisy, position.permutation, "P0")
    if found is not None:
        assert torch.equal(found, assign(expected, torch.arange(20)))
    assert found is not None or noise > 0.1


@pytest.mark.parametrize("axis", [0, 1])
def test_columns_that_were_not_looked_at_are_not_taken_on_trust(axis: int) -> None:
    """Every sixteenth column, all that is looked at, tells of one permutation; the others tell of another."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(12, 8192, generator=generator)
    candidate = reference.roll(1, 0)
    candidate[:, ::16] = reference[:, ::16].roll(2, 0)
    states = [{"weight": tensor if axis == 0 else tensor.T.contiguous()} for tensor in (reference, candidate)]
    for beside in (None, "Q"):
        names = ("P", beside) if axis == 0 else (beside, "P")
        pair = Pair(PermutationSpec.by_hand(states[0], {"weight": names}), states[0], states[1])
        position = Position(pair.spec, identity_permutation(pair.spec))
        edges = [edge for _, edge in edges_of([flatten(block) for block in pair.blocks], "P")]
        assert certain_assignment(pair, edges, position) is None
        agreed = Pair(pair.spec, states[0], {"weight": states[0]["weight"].roll(1, axis)})
        assert certain_assignment(agreed, edges, position) is not None


def test_unlike_networks_give_no_certain_assignment() -> None:
    pair, _ = mlp_pair(0)
    edges = [edge for _, edge in edges_of([flatten(block) for block in pair.blocks], "P0")]
    assert certain_assignment(pair, edges, Position(pair.spec, identity_permutation(pair.spec))) is None


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_copy_is_recognised_and_another_network_is_not(spec: PermutationSpec) -> None:
    generator = torch.Generator().manual_seed(4)
    reference, planted = random_state(spec, generator), random_permutation(spec, generator)
    flats = [flatten(block) for block in spec.blocks]
    edges = {name: list(edges_of(flats, name)) for name in spec.groups if name not in spec.parents}
    copy = Pair(spec, reference, permute(spec, planted, reference))
    found = recognise_copy(copy, edges)
    assert found is not None
    assert all(torch.equal(t, reference[n]) for n, t in permute(spec, found, copy.candidate).items())
    assert recognise_copy(Pair(spec, reference, random_state(spec, generator)), edges) is None


def test_large_networks_that_are_not_quite_alike_are_not_taken_for_copies() -> None:
    """A sum of 10^7 squares in fp32 is off by some 10^-4 of it."""
    state = {"w": torch.randn(1000, 10_000, generator=torch.Generator().manual_seed(0))}
    pair = Pair(PermutationSpec.by_hand(state, {"w": ("p", None)}), state, state)
    square = state["w"].double().square().sum().item()
    assert are_alike(pair, (1 - 1e-8) * square, SAME)
    assert not are_alike(pair, (1 - 1e-5) * square, SAME)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_is_found_where_no_family_is_certain_without_another(seed: int) -> None:
    """Channels are in groups of two for normalisation, which lie in groups of six for the convolution."""
    norm, grouped = nn.GroupNorm(6, 12), nn.Conv2d(12, 12, 3, groups=2)
    net = nn.Sequential(nn.Conv2d(3, 12, 1), norm, nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(12, 2, 1))
    spec = derive_spec(net, (torch.randn(2, 3, 6, 6),))
    generator = torch.Generator().manual_seed(seed)
    reference = random_state(spec, generator)
    for _ in range(4):
        copy = permute(spec, random_permutation(spec, generator), reference)
        aligned = permute(spec, match_weights(spec, reference, copy).permutation, copy)
        assert all(torch.equal(aligned[name], tensor) for name, tensor in reference.items())


def test_units_that_changed_heads_make_no_copy() -> None:
    axes = {"weight": (((Factor(20, "heads"), Factor(2, "values")),), ((Factor(64),),))}
    spec = PermutationSpec({"heads": 20, "values": 2}, axes, {"values": "heads"})
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    pair = Pair(spec, {"weight": weight}, {"weight": weight[[0, 2, 1, *range(3, 40)]].roll(4, 0)})
    assert recognise_copy(pair, {"heads": list(edges_of([flatten(b) for b in spec.blocks], "heads"))}) is None


@few
@given(seeds, st.integers(2, 12))
def test_the_incumbent_is_kept_where_nothing_is_better(seed: int, units: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    incumbent = torch.randperm(units, generator=generator)
    # Full of ties, and the incumbent takes the most of every row.
    gain = torch.randint(0, 3, (units, units), generator=generator).double()
    gain.scatter_(1, incumbent[:, None], 2.0)
    assert torch.equal(assign(gain, incumbent), incumbent)
    assert torch.equal(assign(torch.zeros(units, units), incumbent), incumbent)


@few
@given(seeds, st.integers(1, 12))
def test_an_assignment_is_never_worse_than_the_incumbent(seed: int, units: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    incumbent = torch.randperm(units, generator=generator)
    gain = torch.randint(0, 3, (units, units), generator=generator).double()
    best = assign(gain, incumbent)
    assert torch.equal(best.sort().values, torch.arange(units))
    assert gain.gather(1, best[:, None]).sum() >= gain.gather(1, incumbent[:, None]).sum()


def test_a_group_is_solved_again_only_when_a_neighbour_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, generator = mlp_pair(1, (8, 40, 40, 40, 40, 5))
    solved: list[str] = []
    solve = plain_group.PlainGroup.solve

    def counting(self: plain_group.PlainGroup, position: Position) -> dict[str, Tensor]:
        solved.append(self.group)
        return solve(self, position)

    monkeypatch.setattr(plain_group.PlainGroup, "solve", counting)
    ascent = Ascent(pair, 1e-7)
    climb = ascent.climb(Position(pair.spec, identity_permutation(pair.spec)), generator, 100)
    assert climb.sweeps > 2
    assert len(solved) < 4 * climb.sweeps
    count = len(solved)
    ascent.climb(Position(pair.spec, climb.permutation), generator, 100)
    assert len(solved) - count <= 4


def test_identical_states_are_recognised_without_a_sweep() -> None:
    pair, _ = mlp_pair(2)
    clone = {name: tensor.clone() for name, tensor in pair.reference.items()}
    matching = match_weights(pair.spec, pair.reference, clone)
    assert (matching.sweeps, matching.converged, matching.gain) == (0, True, 0.0)
