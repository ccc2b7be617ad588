"""Layers merged in closed form: nearest, on each network's own inputs, to what each network's layer gives."""

import copy
import weakref
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from alignment import batch_norm_moments, linear_layers, write_moments
from alignment.batches import network_with
from alignment.errors import StateError
from alignment.interpolate import interpolate, weighted_mean
from alignment.least_squares import gram_sums, merge_layers
from alignment.linear_layers import gram_sizes
from alignment.partial_run import needed
from alignment.sequential import HOLD, fit_layers, fitted_in_sequence, output_sums
from tests.networks import Turning

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(5, 3), (40, 5)),
    (nn.Linear(5, 3, bias=False), (8, 5, 5)),
    (nn.Conv2d(2, 3, 3, padding=1), (9, 2, 5, 5)),
    (nn.Conv2d(2, 3, 3, stride=2, dilation=2, bias=False), (9, 2, 9, 9)),
]


class Alone(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.only = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


def networks(layer: nn.Module, shape: Sequence[int]) -> tuple[Alone, list[dict[str, Tensor]], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    model = Alone(layer).double()
    states = [
        {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in model.state_dict().items()}
        for _ in range(2)
    ]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64) * scale for scale in (1, 3)]
    return model, states, inputs


def grams(model: nn.Module, states: Sequence[dict[str, Tensor]], inputs: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    found: list[dict[str, Tensor]] = []
    for state, x in zip(states, inputs, strict=True):
        model.load_state_dict(state)
        found.append(gram_sums(model, [x[:3], x[3:]], ["only"]))
    return found


def error(
    model: nn.Module, merged: dict[str, Tensor], states: Sequence[dict[str, Tensor]], inputs: Sequence[Tensor]
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for state, x in zip(states, inputs, strict=True):
        wanted = torch.func.functional_call(model, state, (x,))
        total = total + (torch.func.functional_call(model, merged, (x,)) - wanted).square().sum()
    return total


class Counted(dict[str, Tensor]):
    """Gives copies, and counts how many of all are alive when one more is asked for."""

    given: ClassVar[list[weakref.ref[Tensor]]] = []
    most: ClassVar[int] = 0

    def __getitem__(self, name: str) -> Tensor:
        Counted.most = max(Counted.most, sum(each() is not None for each in self.given))
        copied = super().__getitem__(name).clone()
        self.given.append(weakref.ref(copied))
        return copied


def test_networks_are_looked_at_one_after_another() -> None:
    model, (state, _), (x, _) = networks(*LAYERS[0])
    (gram,) = grams(model, [state], [x])
    several = merge_layers(state, [state] * 9, [Counted(gram) for _ in range(9)])
    assert len(Counted.given) >= 9
    assert Counted.most <= 2
    assert all(torch.allclose(several[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_no_other_layer_is_nearer_to_both_networks_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, states, inputs = networks(layer, shape)
    mean = interpolate(states[0], states[1], 0.5)
    merged = merge_layers(mean, states, grams(model, states, inputs), alpha=1.0)
    at_least, at_mean = (slopes(model, state, states, inputs) for state in (merged, mean))
    for flat, steep in zip(at_least, at_mean, strict=True):
        # Off-diagonals are shrunk by 1 - MOST_ALPHA.
        assert flat.norm().item() < 1e-3 * steep.norm().item()
    assert error(model, merged, states, inputs) < error(model, mean, states, inputs)


def slopes(
    model: nn.Module, merged: dict[str, Tensor], states: Sequence[dict[str, Tensor]], inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    free = {name: tensor.clone().requires_grad_() for name, tensor in merged.items()}
    return torch.autograd.grad(error(model, free, states, inputs), list(free.values()))


def test_networks_that_agree_stay_as_they_are() -> None:
    model, states, inputs = networks(*LAYERS[2])
    same = [states[0], states[0]]
    merged = merge_layers(states[1], same, grams(model, same, inputs))
    assert all(merged[name].allclose(states[0][name]) for name in merged)


def test_without_any_input_it_is_the_mean() -> None:
    model, states, inputs = networks(*LAYERS[1])
    merged = merge_layers(states[0], states, grams(model, states, [x * 0 for x in inputs]))
    assert merged["only.weight"].allclose((states[0]["only.weight"] + states[1]["only.weight"]) / 2)


@pytest.mark.parametrize("rank", [1, 3])
def test_unshrunk_sums_in_single_precision_of_inputs_that_move_together_give_no_wild_weights(rank: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(256, 5) for _ in range(2)]
    states: list[dict[str, Tensor]] = [layer.state_dict() for layer in layers]
    # With a rank of 1, no input ever varies.
    sources = [torch.cat((torch.ones(4096, 1), torch.rand(4096, rank - 1)), 1) @ torch.rand(rank, 256) for _ in layers]
    sent = [{"": gram_sums(layer, [x], [""])[""].float()} for layer, x in zip(layers, sources, strict=True)]
    merged = merge_layers(states[0], states, sent, alpha=1.0)
    assert merged["weight"].abs().max() < 2 * torch.cat([state["weight"] for state in states]).abs().max()


def test_alpha_zero_weighs_each_input_by_its_own_power() -> None:
    model, states, inputs = networks(*LAYERS[1])
    found = grams(model, states, inputs)
    merged = merge_layers(states[0], states, found, alpha=0.0)
    powers = [each["only"].diagonal() for each in found]
    weighed = torch.stack([p * state["only.weight"] for p, state in zip(powers, states, strict=True)]).sum(0)
    expected = weighed / torch.stack(powers).sum(0)
    assert merged["only.weight"].allclose(expected, rtol=1e-4)


def test_sizes_are_told_before_anything_is_computed() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Linear(7, 2, bias=False)
    )
    assert gram_sizes(model, torch.zeros(1, 2, 5, 11)) == {"0": 19, "3": 7}


class Untidy(nn.Module):
    """Its layers stand in another order than they are called in; one serves twice, one is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 9)
        self.twice = nn.Linear(4, 4)
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.behind = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.last(self.twice(torch.tanh(self.twice(self.norm(self.first(x)))))))


def untidy(seed: int) -> Untidy:
    torch.manual_seed(seed)
    return Untidy().double()


def test_layers_come_in_the_order_of_their_calls_and_those_that_are_never_called_do_not() -> None:
    assert list(gram_sizes(untidy(0), torch.zeros(1, 3, dtype=torch.float64))) == ["first", "twice", "last"]


def test_a_layer_that_serves_twice_is_fitted_to_what_it_puts_out_at_each_call() -> None:
    student, teacher = untidy(0).eval(), untidy(1).eval()
    x = torch.randn(9, 3, dtype=torch.float64)
    gram, across = output_sums(student, teacher, [x[:4], x[4:]], ["twice"])["twice"]
    with torch.no_grad():
        ones = torch.ones(9, 1, dtype=torch.float64)
        features, wanted = student.norm(student.first(x)), teacher.twice(teacher.norm(teacher.first(x)))
        inputs = [features, torch.tanh(student.twice(features))]
        outputs = [wanted, teacher.twice(torch.tanh(wanted))]
        rows = torch.cat([torch.cat((each, ones), 1) for each in inputs])
        torch.testing.assert_close(gram, rows.T @ rows)
        torch.testing.assert_close(across, rows.T @ torch.cat(outputs))


def test_what_is_wanted_of_a_layer_is_what_it_put_out_before_anything_was_written_in_place() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.randn(50, 3, dtype=torch.float64)
    fitted = fit_layers(model.state_dict(), [output_sums(model, model, [x], ["0", "2"])])
    assert all(fitted[name].allclose(tensor) for name, tensor in model.state_dict().items())


def test_networks_run_no_further_than_to_what_is_asked_about() -> None:
    network = untidy(0)
    seen: list[object] = []

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        seen.append(layer)

    network.last.register_forward_hook(note)
    x = torch.randn(9, 3, dtype=torch.float64)
    output_sums(network, network, [x[:4], x[4:]], ["twice"])
    # Each of two networks once, on one sample, to learn how often the layer is called.
    assert len(seen) == 2
    whole = batch_norm_moments(network, [x])
    part = batch_norm_moments(network, [x[:4], x[4:]], until="twice")
    assert {name.partition(".")[0] for name in whole} == {"norm", "behind"}
    assert {name.partition(".")[0] for name in part} == {"norm"}
    assert all(part[name].allclose(whole[name]) for name in part)


def test_what_a_layer_puts_out_depends_on_what_runs_before_its_last_call_and_on_it() -> None:
    network, x = untidy(0), torch.zeros(2, 3, dtype=torch.float64)
    unused = ["unused.weight", "unused.bias"]
    first, norm = [name for name in network.state_dict() if name.startswith("first")], "norm.running_mean"
    assert set(needed(network, "first", x)) == {*first, *unused, *whole_numbers(network)}
    before = set(needed(network, "twice", x))
    assert {*first, norm, "twice.weight", *unused} <= before
    assert not before & {"last.weight", "last.bias", "behind.running_mean", "behind.weight"}
    assert needed(network, "unused", x) == list(network.state_dict())


def whole_numbers(network: nn.Module) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not tensor.is_floating_point()}


def test_weights_that_are_read_before_their_layer_is_called_are_needed() -> None:
    class Ahead(Untidy):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.twice(self.first(x) * self.last.weight.mean()))

    network, x = Ahead().double(), torch.zeros(2, 3, dtype=torch.float64)
    assert "last.weight" not in needed(network, "first", x)
    assert needed(network, "twice", x) == list(network.state_dict())


def test_a_layer_that_one_network_calls_more_often_than_the_other_is_an_error() -> None:
    class Once(Untidy):
        def forward(self, x: Tensor) -> Tensor:
            return self.twice(self.first(x))

    x = torch.randn(4, 3, dtype=torch.float64)
    for pair in ((Once().double(), untidy(0)), (untidy(0), Once().double())):
        with pytest.raises(StateError, match="layer 'twice': one network calls it more often"):
            output_sums(*pair, [x], ["twice"])


def test_in_sequence_layers_are_fitted_as_they_are_called_and_the_statistics_end_right() -> None:
    model = untidy(0)
    x = torch.randn(200, 3, dtype=torch.float64)
    start, other = (write_moments(m.state_dict(), batch_norm_moments(m, [x])) for m in (model, untidy(1)))
    merged = list(fitted_in_sequence(model, start, [other], [1.0], [x]))
    assert len(merged) == 3
    last = merged[-1]
    assert last["unused.weight"].equal(start["unused.weight"])
    moments = batch_norm_moments(network_with(model, last), [x])
    assert all(last[name].allclose(tensor) for name, tensor in write_moments(last, moments).items())
    # Of one network alone, each layer learns what that network's does.
    wanted = network_with(model, other)(x)
    before, after = ((network_with(model, state)(x) - wanted).square().mean() for state in (start, last))
    assert after < 0.1 * before


def test_batches_that_can_be_read_once_are_read_whole_and_no_batches_are_an_error() -> None:
    model, other = untidy(0), untidy(1)
    batches = [torch.randn(50, 3, dtype=torch.float64) for _ in range(2)]
    start, end = (write_moments(m.state_dict(), batch_norm_moments(m, batches)) for m in (model, other))
    kept, once = (list(fitted_in_sequence(model, start, [end], [1.0], given)) for given in (batches, iter(batches)))
    assert len(kept) == len(once) == 3
    assert all(once[-1][name].equal(tensor) for name, tensor in kept[-1].items())
    with pytest.raises(ValueError, match="no batches"):
        next(fitted_in_sequence(model, start, [end], [1.0], []))


def test_a_gram_matrix_of_another_layer_is_refused() -> None:
    _, states, _ = networks(*LAYERS[0])
    with pytest.raises(StateError, match=r"Gram matrix of 'only': expected \(6, 6\), got \(5, 5\)"):
        merge_layers(states[0], states, [{"only": torch.eye(5)}] * 2)


@pytest.mark.parametrize(("n_states", "n_grams"), [(0, 0), (2, 1), (1, 2), (2, 0)])
def test_layers_of_no_networks_or_without_their_sums_are_an_error(n_states: int, n_grams: int) -> None:
    model, states, inputs = networks(*LAYERS[0])
    given = states[:n_states], grams(model, states, inputs)[:n_grams]
    with pytest.raises(ValueError, match=f"Gram matrices for each of at least one state, got {n_grams} for {n_states}"):
        merge_layers(states[0], *given)
    with pytest.raises(ValueError, match=f"one weight for each of at least one state, got {n_grams} for {n_states}"):
        weighted_mean(given[0], [0.5] * n_grams)
    with pytest.raises(ValueError, match="no sums to fit layers to"):
        fit_layers(states[0], [])


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_fitted_layer_is_nearest_to_the_outputs_wanted_but_for_being_held(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model, states, inputs = networks(layer, shape)
    merged = interpolate(states[0], states[1], 0.5)
    student, teacher = copy.deepcopy(model), copy.deepcopy(model)
    student.load_state_dict(merged)
    parts: list[tuple[Tensor, Tensor]] = []
    for state, x in zip(states, inputs, strict=True):
        teacher.load_state_dict(state)
        parts.append(output_sums(student, teacher, [x[:3], x[3:]], ["only"])["only"])
    sums = (parts[0][0] + parts[1][0], parts[0][1] + parts[1][1])
    fitted = fit_layers(merged, [{"only": part} for part in parts])

    def loss(of: dict[str, Tensor]) -> Tensor:
        moved = torch.stack([(of[key] - merged[key]).square().sum() for key in merged]).sum()
        return error(model, of, states, inputs) + HOLD * sums[0].diagonal().mean() * moved

    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        other = {k: t + 1e-3 * torch.randn(t.shape, generator=generator, dtype=t.dtype) for k, t in fitted.items()}
        assert loss(fitted) < loss(other)


def test_a_network_that_is_fitted_to_itself_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).double()
    x = torch.randn(50, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fitted = fit_layers(model.state_dict(), [output_sums(model, model, [x], ["0", "3"])])
    assert all(fitted[name].allclose(tensor) for name, tensor in model.state_dict().items())


def test_a_layer_makes_up_for_what_those_before_it_got_wrong() -> None:
    generator = torch.Generator().manual_seed(3)
    teacher = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(generator=generator)
    student = copy.deepcopy(teacher)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        student.get_submodule("0").get_parameter("weight").add_(0.1)
    before = (student(x) - teacher(x)).square().mean()
    student.load_state_dict(fit_layers(student.state_dict(), [output_sums(student, teacher, [x], ["1"])]))
    assert (student(x) - teacher(x)).square().mean() < 0.01 * before


def test_sums_of_another_layer_are_an_error() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(StateError, match=r"sums of '': expected \(4, 4\) and \(4, 2\), got \(3, 3\) and \(4, 2\)"):
        fit_layers(layer.state_dict(), [{"": (torch.eye(3), torch.zeros(4, 2))}])


def test_patches_laid_out_a_few_samples_at_a_time_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    other = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    inputs = [torch.randn(5, 3, 6, 6, dtype=torch.float64)]
    whole, fitted = gram_sums(layer, inputs, [""])[""], output_sums(layer, other, inputs, [""])[""]
    monkeypatch.setattr(linear_layers, "MOST_PATCHES", 2 * inputs[0][0].numel() * 9)
    torch.testing.assert_close(gram_sums(layer, inputs, [""])[""], whole)
    torch.testing.assert_close(output_sums(layer, other, inputs, [""])[""], fitted)
    torch.testing.assert_close(fitted[0], whole)


def test_the_projection_of_an_attention_that_is_never_called_has_none() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    x = torch.randn(3, 5, 8)
    assert set(gram_sizes(layer, x)) == {"linear1", "linear2"}
    assert set(gram_sums(layer, [x], list(gram_sizes(layer, x)))) == {"linear1", "linear2"}


class Tenth(nn.Linear):
    """Computes something else than its weights say."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 0.1


def test_a_layer_that_computes_something_else_keeps_its_mean() -> None:
    model = nn.Sequential(nn.Linear(4, 5), Tenth(5, 3))
    assert list(gram_sizes(model, torch.randn(2, 4))) == ["0"]


def test_sums_of_half_precision_do_not_overflow() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).half()
    inputs = torch.full((100, 4), 200.0, dtype=torch.float16)
    assert gram_sums(model, [inputs], ["0"])["0"].max().item() == 100 * 200.0**2


class Standardised(nn.Conv2d):
    """Its kernels are not its weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        return nn.functional.conv2d(input, 2 * weight, bias)


def test_a_convolution_that_changes_its_weights_on_the_way_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), Standardised(3, 4, 3))
    assert list(gram_sizes(model, torch.zeros(1, 2, 8, 8))) == ["0"]


class OfOne(nn.Module):
    """Two of its layers are given one sample alone, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.of_constant, self.of_image, self.out = nn.Linear(3, 4), nn.Conv2d(1, 4, 2), nn.Linear(3, 4)
        self.constant, self.image = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) + self.of_constant(self.constant) + self.of_image(self.image).mean((1, 2))


def test_layers_that_are_given_one_sample_alone_are_solved_as_others_are() -> None:
    torch.manual_seed(0)
    model, other, x = OfOne(), OfOne(), torch.randn(5, 3)
    names = list(gram_sizes(model, x))
    assert sorted(names) == ["of_constant", "of_image", "out"]
    sums = gram_sums(model, [x], names)
    row = torch.cat((model.constant, torch.ones(1))).detach().double()
    torch.testing.assert_close(sums["of_constant"], torch.outer(row, row), rtol=1e-6, atol=1e-6)
    assert sums["of_image"][-1, -1] == 4  # patches
    gram, across = output_sums(model, other, [x], ["of_constant"])["of_constant"]
    torch.testing.assert_close(gram, sums["of_constant"])
    given = other.of_constant(other.constant).detach().double()
    torch.testing.assert_close(across, torch.outer(row, given), rtol=1e-5, atol=1e-6)


def test_complex_layers_are_left_as_they_are() -> None:
    model, x = Turning(), torch.randn(50, 4)
    ends: list[dict[str, Tensor]] = [Turning().state_dict() for _ in range(2)]
    merged = interpolate(ends[0], ends[1], 0.5)
    assert list(gram_sizes(model, x)) == ["out"]
    fitted = list(fitted_in_sequence(model, merged, ends, [0.5, 0.5], [x]))[-1]
    assert torch.equal(fitted["turn.weight"], merged["turn.weight"])
    assert not torch.equal(fitted["out.weight"], merged["out.weight"])
