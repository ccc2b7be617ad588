"""BatchNorm moments: exact, poolable, and what recalibration makes of them."""

import pytest
import torch
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, recalibrate, write_moments
from alignment.batches import joined
from alignment.errors import StateError
from alignment.least_squares import gram_sums
from alignment.moments import add_moments, mean_and_variance, pool_moments
from alignment.sequential import output_sums
from tests.trained import digits, digits_network

LAYERS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def data(dims: int, n: int = 50, seed: int = 0) -> Tensor:
    return 5 + 3 * torch.randn(n, 4, *[3] * (dims if dims > 1 else 0), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pooled_moments_are_those_of_the_pooled_data(dims: int):
    layer, x = LAYERS[dims](4), data(dims)
    sites = [torch.split(x[:20], 8), torch.split(x[20:23], 2), torch.split(x[23:], 9)]
    pooled = pool_moments([batch_norm_moments(layer, site) for site in sites])
    written = write_moments(layer.state_dict(), pooled)
    rows = x.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(written["running_mean"].double(), rows.mean(1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(written["running_var"].double(), rows.var(1), atol=1e-6, rtol=1e-6)


def test_pooled_moments_of_a_whole_network_are_those_of_the_pooled_data_where_batches_agree():
    network, batches = digits_network("resnet20", "batch", 4, 0, depth=8), [x for x, _ in digits()[0][:4]]
    whole = batch_norm_moments(network, batches)
    pooled = pool_moments([batch_norm_moments(network, batches[:1]), batch_norm_moments(network, batches[1:])])
    for name, tensor in whole.items():
        torch.testing.assert_close(pooled[name], tensor, atol=0, rtol=1e-12)


def test_moments_are_named_after_their_layers_in_fp64():
    moments = batch_norm_moments(digits_network("resnet20", "batch", 4, 0, depth=8), digits()[1])
    assert {name.rsplit(".", 1)[0] for name in moments} >= {"bn1", "layer2.0.downsample.1", "layer3.0.bn2"}
    assert {tensor.dtype for tensor in moments.values()} == {torch.float64}
    assert moments["bn1.count"] == sum(len(x) for x, _ in digits()[1]) * 64
    assert moments["layer3.0.bn2.sum"].shape == moments["layer3.0.bn2.squares"].shape == (16,)


def test_one_batch_gives_the_statistics_that_a_reset_in_train_mode_gives():
    x = digits()[1][0][0]
    ours, torchs = (digits_network("resnet20", "batch", 4, 0, depth=8) for _ in range(2))
    recalibrate(ours, [x])
    for module in torchs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    torchs.train()(x)
    expected = torchs.state_dict()
    for name, tensor in ours.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


def test_deep_layers_see_inputs_normalised_by_the_batch_and_not_by_stale_statistics():
    first, second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    assert first.running_mean is not None
    first.running_mean.fill_(1e3)
    moments = batch_norm_moments(nn.Sequential(first, second), [data(1)])
    _, mean, variance = mean_and_variance(moments, "1")
    torch.testing.assert_close(mean, torch.zeros(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones(4, dtype=torch.float64), atol=1e-4, rtol=0)


def test_recalibration_twice_changes_nothing():
    network, batches = digits_network("resnet20", "batch", 4, 0, depth=8), digits()[0]
    recalibrate(network, batches)
    once = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recalibrate(network, batches)
    assert all(torch.equal(tensor, once[name]) for name, tensor in network.state_dict().items())


def test_dropout_does_not_disturb_the_statistics():
    network, x = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4)), data(1)
    _, mean, _ = mean_and_variance(batch_norm_moments(network, [x]), "1")
    torch.testing.assert_close(mean, x.double().mean(0))


def test_measuring_leaves_the_network_alone():
    network = digits_network("resnet20", "batch", 4, 0, depth=8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batch_norm_moments(network, digits()[1])
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_recalibration_keeps_training_flags_and_parameters():
    network = digits_network("resnet20", "batch", 4, 0, depth=8).train()
    before = [parameter.clone() for parameter in network.parameters()]
    recalibrate(network, digits()[1])
    assert network.training
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_a_lone_sample_is_counted_and_does_not_break_the_pass():
    layer, x = nn.BatchNorm1d(4), data(1, n=9)
    for sizes in ([8, 1], [1, 8], [4, 1, 4], [1] * 9):
        moments = batch_norm_moments(layer, torch.split(x, sizes))
        assert moments[".count"] == 9
        torch.testing.assert_close(moments[".sum"], x.double().sum(0))


@pytest.mark.parametrize(
    ("sizes", "seen"),
    [([1] * 7, [2, 2, 3]), ([4, 4], [4, 4]), ([1, 4, 1], [6]), ([3, 1], [4]), ([1], [1])],
)
def test_lone_samples_join_one_neighbour_and_no_more(sizes: list[int], seen: list[int]):
    assert [len(batch) for batch in joined(torch.split(data(1, n=sum(sizes)), sizes))] == seen


def test_a_layer_that_is_used_twice_sees_all_its_inputs():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(2 * x)

    x = data(1)
    _, mean, _ = mean_and_variance(batch_norm_moments(Twice(), [x]), "norm")
    torch.testing.assert_close(mean, 1.5 * x.double().mean(0))


def test_a_layer_without_running_statistics_has_no_moments():
    assert batch_norm_moments(nn.BatchNorm1d(4, track_running_stats=False), [data(1)]) == {}


def test_a_norm_without_running_statistics_stands_before_layers_that_are_measured():
    own = nn.BatchNorm1d(4, track_running_stats=False)
    network = nn.Sequential(own, nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    x = data(1)
    whole, part = batch_norm_moments(network, [x]), batch_norm_moments(network, [x], until="3")
    assert part.keys() == {name for name in whole if name.startswith("2.")}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())
    gram, _ = output_sums(network, network, [x], ["1"])["1"]
    torch.testing.assert_close(gram, gram_sums(network, [x], ["1"])["1"])


def test_sums_are_exact_where_fp32_would_round():
    moments: dict[str, Tensor] = {}
    add_moments(moments, "layer", torch.tensor([[2.0**24], [1.0], [1.0], [1.0]]), axis=1)
    assert moments["layer.sum"].item() == 2**24 + 3


def test_without_batches_there_are_no_moments():
    with pytest.raises(ValueError, match="no batches"):
        recalibrate(nn.BatchNorm1d(4), [])


def test_variance_survives_a_mean_that_dwarfs_it():
    moments: dict[str, Tensor] = {}
    add_moments(moments, "layer", 1000 + torch.tensor([[0.0], [1.0], [2.0]]), axis=1)
    _, mean, variance = mean_and_variance(moments, "layer")
    assert (mean.item(), variance.item()) == (pytest.approx(1001), pytest.approx(2 / 3, rel=1e-6))


def test_moments_that_do_not_fit_are_refused_by_name():
    layer = nn.BatchNorm1d(4)
    moments = batch_norm_moments(layer, [data(1)])
    with pytest.raises(StateError, match="no moments"):
        pool_moments([])
    with pytest.raises(StateError, match=r"'\.count' are not in both part 0 and part 1"):
        pool_moments([moments, {name: moments[name] for name in (".sum", ".squares")}])
    with pytest.raises(StateError, match=r"'\.sum' of part 1 have another shape"):
        pool_moments([moments, moments | {".sum": torch.zeros(3)}])
    with pytest.raises(StateError, match=r"no 'running_mean' of shape \(4,\)"):
        write_moments(nn.BatchNorm1d(3).state_dict(), moments)
    with pytest.raises(StateError, match="1 values have no variance"):
        write_moments(layer.state_dict(), moments | {".count": torch.tensor(1.0)})
