"""What each layer ties: exact groups and axes, by one small network per construct."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.derived import derived, freedom, layout

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_linear_layers_share_their_hidden_units() -> None:
    spec = derived(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "0.weight") == ["0", "4"]
    assert layout(spec, "0.bias") == ["0"]
    assert layout(spec, "2.weight") == ["3", "0"]
    assert spec.fixed == {("0.weight", 1): "network input", ("2.weight", 0): "network output"}


def test_linear_layers_act_on_any_leading_axes() -> None:
    spec = derived(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(2, 3, 2, 4))
    assert freedom(spec) == {"0": 5}


class Adapted(nn.Module):
    """A hidden layer beside an adapter of a rank, that may be 0."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.down, self.up = (nn.Parameter(torch.ones(size)) for size in ((rank, 5), (3, rank)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x).relu()
        return self.last(h) + F.linear(F.linear(h, self.down), self.up)


def test_units_move_along_tensors_without_elements_whose_own_axes_stay() -> None:
    spec = derived(Adapted(0), torch.randn(2, 4))
    (units,) = freedom(spec)
    assert layout(spec, "hidden.weight") == [units, "4"]
    assert layout(spec, "down") == ["0", units]
    assert layout(spec, "up") == ["3", "0"]
    assert sorted(freedom(derived(Adapted(2), torch.randn(2, 4))).values()) == [2, 5]


def test_what_is_concatenated_with_nothing_moves_as_without() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
            self.rows, self.columns = nn.Parameter(torch.zeros(0, 5)), nn.Parameter(torch.zeros(2, 0))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.columns, self.hidden(x).relu(), self.columns], 1)
            return self.last(torch.cat([self.rows, h]))

    spec = derived(Beside(), torch.randn(2, 4))
    assert list(freedom(spec).values()) == [5]
    assert layout(spec, "rows")[1:] == layout(spec, "hidden.weight")[:1] == layout(spec, "last.weight")[1:]


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_convolutions_share_their_channels(n_axes: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n_axes - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n_axes - 1]
    net = nn.Sequential(conv(3, 4, 3, padding=1, bias=False), nn.ReLU(), transposed(4, 5, 2, 2), conv(5, 2, 1))
    spec = derived(net, torch.randn(2, 3, *[4] * n_axes))
    assert freedom(spec) == {"0": 4, "2": 5}
    assert layout(spec, "2.weight") == ["0", "2", *["2"] * n_axes]
    assert spec.fixed["2.weight", 2] == "position within a convolution kernel"
    assert layout(spec, "2.bias") == ["2"]


def test_grouped_convolution_moves_groups_and_the_channels_within() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(), nn.Conv2d(9, 2, 1))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0.groups": 3, "0.units": ("0.groups", 2), "2.units": ("0.groups", 3)}
    assert layout(spec, "0.weight") == ["0.groups·0.units", "3", "1", "1"]
    assert layout(spec, "2.weight") == ["0.groups·2.units", "0.units", "3", "3"]
    assert layout(spec, "4.weight") == ["2", "0.groups·2.units", "1", "1"]


def test_grouped_transposed_convolution_moves_groups_and_the_channels_within() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 9, 2, groups=3), nn.ReLU(), nn.Conv2d(9, 2, 1))
    spec = derived(net, IMAGE)
    assert layout(spec, "1.weight") == ["0.groups·0.units", "1.units", "2", "2"]
    assert layout(spec, "1.bias") == ["0.groups·1.units"]
    assert spec.parents == {"0.units": "0.groups", "1.units": "0.groups"}


def test_depthwise_convolution_moves_with_its_input() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 3, groups=5), nn.ReLU(), nn.Conv2d(5, 2, 1))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "1.weight") == ["0", "1", "3", "3"]


def test_depthwise_multiplier_moves_within_each_channel() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 10, 3, groups=5), nn.ReLU(), nn.Conv2d(10, 2, 1))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0": 5, "1.units": ("0", 2)}
    assert layout(spec, "1.weight") == ["0·1.units", "1", "3", "3"]


def test_batch_norm_statistics_move_and_are_buffers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0": 4}
    assert [layout(spec, f"1.{name}") for name in ("weight", "bias", "running_mean", "running_var")] == [["0"]] * 4
    assert spec.buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.GroupNorm(4, 4)]
)
def test_instance_norm_moves_with_its_channels(norm: nn.Module) -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 1)), IMAGE)
    assert freedom(spec) == {"0": 4}
    assert all(layout(spec, f"1.{name}") == ["0"] for name in norm.state_dict() if norm.state_dict()[name].ndim)


@pytest.mark.parametrize("norm", [nn.LayerNorm(5), nn.RMSNorm(5), nn.LayerNorm(5, bias=False)])
def test_norms_over_units_move_with_them(norm: nn.Module) -> None:
    spec = derived(nn.Sequential(nn.Linear(4, 5), norm, nn.Linear(5, 3)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "1.weight") == ["0"]


def test_layer_norm_over_an_image_fixes_positions_only() -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 4, 4]), nn.Conv2d(4, 2, 1)), IMAGE)
    assert layout(spec, "1.weight") == ["0", "4", "4"]


def test_one_group_of_group_norm_moves_freely() -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 1)), IMAGE)
    assert freedom(spec) == {"0": 4}


def test_group_norm_keeps_groups_together() -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 2, 1)), IMAGE)
    assert freedom(spec) == {"0.groups": 3, "0.units": ("0.groups", 2)}
    assert layout(spec, "1.weight") == ["0.groups·0.units"]


class _NormOfBoth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1)
        self.norm, self.out = nn.GroupNorm(4, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu())


def test_group_norm_across_a_concatenation_keeps_the_straddling_group_in_place() -> None:
    spec = derived(_NormOfBoth(), IMAGE)
    assert layout(spec, "a.weight")[0] == "a + a.2"
    assert layout(spec, "b.weight")[0] == "1 + b.groups·b.units"
    assert freedom(spec) == {"a": 3, "a.2": 2, "b.groups": 2, "b.units": ("b.groups", 3)}


@pytest.mark.parametrize(("n_slopes", "slopes"), [(1, ["1"]), (4, ["0"])])
def test_prelu_slopes_move_when_there_is_one_per_channel(n_slopes: int, slopes: list[str]) -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(n_slopes), nn.Conv2d(4, 2, 1)), IMAGE)
    assert freedom(spec) == {"0": 4}
    assert layout(spec, "1.weight") == slopes


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.ReLU6(), nn.LeakyReLU(inplace=True), nn.ELU(), nn.CELU(), nn.SELU(), nn.GELU(), nn.GELU("tanh")),
        *(nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish(inplace=True), nn.Hardsigmoid(), nn.Hardtanh(inplace=True)),
        *(nn.Softplus(), nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.LogSigmoid()),
        *(nn.Threshold(0.1, 0.2), nn.Softmax(-1), nn.LogSoftmax(-1), nn.Softmin(-1), nn.RReLU(), nn.Dropout()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_activations_leave_units_free(activation: nn.Module) -> None:
    spec = derived(nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}


def test_gated_linear_units_tie_the_two_halves() -> None:
    spec = derived(nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 3}
    assert layout(spec, "0.weight") == ["2·0", "4"]


def test_flatten_gives_each_channel_its_positions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0": 4}
    assert layout(spec, "3.weight") == ["3", "0·4"]


@pytest.mark.parametrize(
    "pool",
    [
        *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2)),
        *(nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")),
        *(nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.ZeroPad2d(-1), nn.CircularPad2d(1)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_pooling_and_padding_leave_channels_free(pool: nn.Module) -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Conv2d(4, 2, 1)), IMAGE)
    assert freedom(spec) == {"0": 4}


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + x.amax((2, 3)) + x.max(3).values.sum(2) + x.std((2, 3))


def test_means_and_maxima_leave_the_kept_axis_free() -> None:
    spec = derived(nn.Sequential(nn.Conv2d(3, 4, 3), _Mean(), nn.Linear(4, 2)), IMAGE)
    assert freedom(spec) == {"0": 4}


def test_a_sum_over_units_leaves_them_free() -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().sum(1, keepdim=True)

    spec = derived(nn.Sequential(nn.Linear(4, 5), Total(), nn.Linear(1, 2)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}


def test_pixel_shuffle_moves_the_channels_that_it_leaves() -> None:
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(5, 2, 1))
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "0.weight")[0] == "0·4"


def test_pixel_unshuffle_gives_each_channel_its_positions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.PixelUnshuffle(2), nn.Conv2d(20, 2, 1))
    spec = derived(net, IMAGE)
    assert layout(spec, "2.weight")[1] == "0·4"


def test_unfolded_patches_give_each_channel_its_positions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Unfold(2), nn.Flatten(0, 1), nn.Linear(25, 2))
    assert freedom(derived(net, IMAGE)) == {}
    transposed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Unfold(2), nn.Conv1d(16, 2, 1))
    assert layout(derived(transposed, IMAGE), "2.weight")[1] == "0·4"


def test_embeddings_move_their_features_but_not_their_rows() -> None:
    spec = derived(nn.Sequential(nn.Embedding(7, 5), nn.ReLU(), nn.Linear(5, 3)), torch.tensor([[1, 2, 6]]))
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "0.weight") == ["7", "0"]
    assert spec.fixed["0.weight", 0] == "operation embedding"


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.body(x).relu())


def test_tied_embeddings_are_listed_under_both_names() -> None:
    spec = derived(_Tied(), torch.tensor([[1, 2, 6]]))
    assert freedom(spec) == {"embed": 5}
    assert layout(spec, "embed.weight") == layout(spec, "head.weight") == ["7", "embed"]


def test_bags_of_embeddings_move_their_features() -> None:
    net = nn.Sequential(nn.EmbeddingBag(7, 5, mode="sum"), nn.Linear(5, 3))
    assert freedom(derived(net, torch.tensor([[1, 2, 6]]))) == {"0": 5}


def test_bilinear_layers_move_both_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both, self.out = (
                nn.Linear(4, 5),
                nn.Linear(4, 6),
                nn.Bilinear(5, 6, 7),
                nn.Linear(7, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.both(self.a(x), self.b(x)).relu())

    spec = derived(Pair(), torch.randn(2, 4))
    assert freedom(spec) == {"a": 5, "b": 6, "both": 7}
    assert layout(spec, "both.weight") == ["both", "a", "b"]


def test_weight_norm_moves_with_its_units() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))
    spec = derived(net, torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "0.parametrizations.weight.original0") == ["0", "1"]
    assert layout(spec, "0.parametrizations.weight.original1") == ["0", "4"]


def test_spectral_norm_moves_with_its_units() -> None:
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))
    spec = derived(net, torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}
    assert layout(spec, "0.parametrizations.weight.0._u") == ["0"]


def test_normalised_rows_move() -> None:
    class Cosine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, dim=-1)

    spec = derived(nn.Sequential(nn.Linear(4, 5), Cosine(), nn.Linear(5, 3)), torch.randn(2, 4))
    assert freedom(spec) == {"0": 5}
