"""What the wiring between layers ties: residual sums, concatenations, sharing."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint

from tests.derived import derived, freedom, layout

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
VECTOR = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))


def test_an_identity_shortcut_ties_the_stream() -> None:
    spec = derived(_Residual(), VECTOR)
    assert freedom(spec) == {"stem": 6, "body.0": 7}
    assert layout(spec, "body.2.weight") == ["stem", "body.0"]


def test_a_shortcut_from_the_input_fixes_the_stream() -> None:
    class FromInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.body(x))

    spec = derived(FromInput(), VECTOR)
    assert freedom(spec) == {"body.0": 7}
    assert spec.fixed["body.2.weight", 0] == "network input"


class _Shortcut(nn.Module):
    """ResNet's stage change on CIFAR: stride, then projection or zero channels."""

    def __init__(self, projected: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 8, 3, 2, 1)
        self.projection = nn.Conv2d(4, 8, 1, 2) if projected else None
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        beside = self.projection(x) if self.projection else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))
        return self.head((self.body(x) + beside).relu().mean((2, 3)))


def test_a_projected_shortcut_moves_with_the_sum() -> None:
    spec = derived(_Shortcut(projected=True), IMAGE)
    assert freedom(spec) == {"stem": 4, "body": 8}
    assert layout(spec, "projection.weight")[:2] == ["body", "stem"]


def test_a_zero_padded_shortcut_lets_padded_channels_move_among_themselves() -> None:
    spec = derived(_Shortcut(projected=False), IMAGE)
    assert freedom(spec) == {"stem": 4, "body": 3}
    assert layout(spec, "body.weight")[:2] == ["1 + stem + body", "stem"]
    assert layout(spec, "head.weight") == ["2", "1 + stem + body"]


class _Concatenated(nn.Module):
    """Inception: branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 1, 1)
        self.norm, self.out = nn.BatchNorm2d(13), nn.Linear(13 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x), self.c(x), F.avg_pool2d(x, 3, 1, 1)], 1)
        return self.out(F.adaptive_avg_pool2d(self.norm(x).relu(), 2).flatten(1))


def test_concatenated_branches_are_segments_of_one_axis() -> None:
    spec = derived(_Concatenated(), IMAGE)
    assert freedom(spec) == {"a": 4, "b": 5}
    assert layout(spec, "norm.running_var") == ["a + b + 4"]
    assert layout(spec, "out.weight") == ["2", "a·4 + b·4 + 16"]


@pytest.mark.parametrize("pooled_first", [False, True])
def test_stacked_branches_that_are_flattened_are_a_concatenation(pooled_first: bool) -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            maps = [self.a(x).relu(), self.b(x).relu()]
            if pooled_first:
                return self.out(torch.stack([F.adaptive_avg_pool2d(each, 2) for each in maps], 1).flatten(1))
            return self.out(F.adaptive_avg_pool2d(torch.stack(maps, 1).flatten(1, 2), 2).flatten(1))

    spec = derived(Stacked(), IMAGE)
    assert freedom(spec) == {"a": 4, "b": 4}
    assert layout(spec, "out.weight") == ["2", "a·4 + b·4"]


def test_stacked_branches_that_are_summed_too_move_alike() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
            self.rows, self.mean = nn.Linear(10, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            branches = torch.stack([self.a(x).relu(), self.b(x).relu()], 1)
            return self.rows(branches.flatten(1)) + self.mean(branches.mean(1))

    assert freedom(derived(Stacked(), VECTOR)) == {"a": 5}


class _CutAgain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 10)
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(5, 2), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x).relu()
        first, second, _ = torch.split(x, [3, 5, 2], 1)
        return self.a(first) + self.b(second) + self.c(x[:, 3:])


def test_a_split_layer_moves_within_its_pieces() -> None:
    spec = derived(_CutAgain(), VECTOR)
    assert freedom(spec) == {"wide": 3, "wide.2": 5, "wide.3": 2}
    assert layout(spec, "wide.weight") == ["wide + wide.2 + wide.3", "4"]
    assert layout(spec, "c.weight") == ["2", "wide.2 + wide.3"]


def test_a_unit_that_is_read_alone_stays() -> None:
    class Peek(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x * x[:, 2:3].sigmoid()) + x[:, 2:3]

    assert layout(derived(Peek(), VECTOR), "a.weight")[0] == "a + 1 + a.2"


def test_reads_by_position_fix_the_axis_and_say_so() -> None:
    class Every(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x)[:, ::2]).cumsum(0))

    spec = derived(Every(), VECTOR)
    assert freedom(spec) == {"b": 5}
    assert spec.fixed["a.weight", 0] == "operation slice"


def test_sorting_units_fixes_them() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort(1).values

    spec = derived(nn.Sequential(nn.Linear(4, 5), Sorted(), nn.Linear(5, 2)), VECTOR)
    assert spec.fixed["0.weight", 0] == spec.fixed["2.weight", 1] == "operation sort"


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        scale = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.out(x * scale[:, :, None, None])


def test_squeeze_and_excitation_scales_the_channels_that_it_reads() -> None:
    spec = derived(_SqueezeExcite(), IMAGE)
    assert freedom(spec) == {"conv": 6, "squeeze": 3}
    assert layout(spec, "excite.weight") == ["conv", "squeeze"]


def test_a_layer_used_twice_ties_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shared(self.shared(self.stem(x)).relu()).relu())

    spec = derived(Twice(), VECTOR)
    assert freedom(spec) == {"stem": 5}
    assert layout(spec, "shared.weight") == ["stem", "stem"]


def test_one_module_under_two_names_is_listed_twice() -> None:
    shared = nn.Linear(5, 5)
    spec = derived(nn.Sequential(nn.Linear(4, 5), shared, nn.ReLU(), shared, nn.Linear(5, 2)), VECTOR)
    assert layout(spec, "1.weight") == layout(spec, "3.weight") == ["0", "0"]


def test_a_transposed_weight_of_the_same_tensor_ties_the_code() -> None:
    class AutoEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.code(x).relu(), self.code.weight.t())

    spec = derived(AutoEncoder(), VECTOR)
    assert freedom(spec) == {"code": 5}
    assert layout(spec, "code.weight") == ["code", "4"]


def test_parameters_in_one_memory_are_tied_without_being_one_object() -> None:
    one, other = nn.Linear(5, 5), nn.Linear(5, 5)
    other.weight = nn.Parameter(one.weight.data)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), one, nn.ReLU(), other, nn.Linear(5, 2))
    # What one writes, the other reads: a single matrix ties all three layers' units.
    assert freedom(derived(net, VECTOR)) == {"0": 5}


def test_memory_shared_in_another_layout_stays_fixed() -> None:
    one, other = nn.Linear(4, 5, bias=False), nn.Linear(5, 4, bias=False)
    other.weight = nn.Parameter(one.weight.data.t())
    net = nn.Sequential(one, nn.ReLU(), other, nn.Linear(4, 2))
    spec = derived(net, VECTOR)
    assert spec.fixed["0.weight", 0] == "it shares memory with a tensor of another layout"


def test_low_rank_updates_move_their_rank() -> None:
    class LoRA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.zeros(6, 3))
            self.base, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.linear(x, self.base.weight + self.b @ self.a, self.base.bias).relu())

    spec = derived(LoRA(), VECTOR)
    assert freedom(spec) == {"a": 3, "b": 6}
    assert layout(spec, "b") == ["b", "a"]
    assert layout(spec, "base.weight") == ["b", "4"]


def test_writing_into_slices_is_a_concatenation() -> None:
    class Assembled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            whole = torch.zeros(len(x), 9)
            whole[:, :3] = self.a(x)
            whole[:, 3:8] = self.b(x)
            return self.out(whole.relu_())

    spec = derived(Assembled(), VECTOR)
    assert layout(spec, "out.weight") == ["2", "a + b + 1"]


def test_a_literal_that_is_written_takes_in_what_it_is_given() -> None:
    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            total, units = torch.tensor(0.0), torch.tensor([0.0, 0.0, 0.0])
            units += self.a(x).sum(0)
            total += x.sum()
            return self.b(units) + total

    assert freedom(derived(Noted(), VECTOR)) == {"a": 3}


def test_equal_constants_tie_nothing_together() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            one = torch.ones(5)
            return self.c(self.a(x) * one) + self.c(self.a(x)) + (self.b(x) * one).sum(1, keepdim=True)

    assert freedom(derived(Shifted(), VECTOR)) == {"a": 5, "b": 5}


def test_constants_with_positions_fix_what_they_meet() -> None:
    class Numbered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.arange(5)

    spec = derived(nn.Sequential(nn.Linear(4, 5), Numbered(), nn.Linear(5, 2)), VECTOR)
    assert spec.groups == {}
    assert "constant" in spec.fixed["0.weight", 0]


class _Scale(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_tensors_outside_the_state_dict_fix_what_they_meet() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    net.insert(1, _Scale())
    spec = derived(net, VECTOR)
    assert spec.fixed["0.weight", 0] == "a tensor that is not in the state dict"


def test_channel_shuffles_mix_groups_and_channels() -> None:
    class Shuffle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    for shuffle in (Shuffle(), nn.ChannelShuffle(2)):
        spec = derived(nn.Sequential(nn.Conv2d(3, 6, 1), shuffle, nn.Conv2d(6, 2, 1)), IMAGE)
        assert sorted(spec.groups.values()) == [2, 3]
        assert layout(spec, "2.weight")[1] == "·".join(reversed(layout(spec, "0.weight")[0].split("·")))


def test_patches_flattened_over_channels_and_positions_split_again() -> None:
    net = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 5, 2), nn.Flatten(), nn.Linear(5, 2))
    spec = derived(net, VECTOR)
    assert freedom(spec) == {"0": 3, "2": 5}
    assert layout(spec, "0.weight")[0] == "0·4"


def test_a_checkpointed_part_is_seen_through() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(cast(Tensor, checkpoint.checkpoint(self.a, x, use_reentrant=False)).relu())

    assert freedom(derived(Checkpointed(), VECTOR)) == {"a": 5}


def test_a_vectorised_part_is_seen_through() -> None:
    class Vectorised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def row(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.row)(x)

    assert freedom(derived(Vectorised(), VECTOR)) == {"a": 5}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_script_is_seen_through() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    assert freedom(derived(cast(nn.Module, torch.jit.trace(net, VECTOR)), VECTOR)) == {"0": 5}
