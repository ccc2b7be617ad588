"""The shipped networks: shapes, determinism, layouts, and what is said of a network that is not there."""

from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models import Architecture, ModelError
from models.norms import ChannelNorm
from models.residual import BasicBlock, Bottleneck
from models.sequence import as_sequence

DIGITS, CIFAR = (1, 8, 8), (3, 32, 32)
EVERY = [(name, norm) for name, family in models.FAMILIES.items() for norm in family.norms]


def small(name: str, norm: str, shape: tuple[int, ...]) -> Architecture:
    return Architecture(name, shape, classes=10, width=8, norm=norm)


@pytest.mark.parametrize("shape", [DIGITS, CIFAR])
@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_every_network_maps_images_to_logits(name: str, norm: str, shape: tuple[int, ...]):
    network = models.build(small(name, norm, shape), seed=0).eval()
    with torch.no_grad():
        logits = network(torch.randn(3, *shape))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_sequence_networks_read_sequences(name: str):
    network = models.build(small(name, "", (5, 7)), seed=0)
    assert network(torch.randn(3, 5, 7)).shape == (3, 10)


def test_an_image_is_read_row_by_row():
    image = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    rows = as_sequence(image)
    assert rows.shape == (1, 3, 8)
    assert rows[0, 1].tolist() == [*image[0, 0, 1].tolist(), *image[0, 1, 1].tolist()]


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_one_seed_gives_the_same_bytes_and_another_seed_others(name: str, norm: str):
    first, again, other = (models.build(small(name, norm, DIGITS), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_the_size_is_known_without_building(name: str, norm: str):
    state = models.build(small(name, norm, DIGITS), seed=0).state_dict()
    assert models.size_bytes(small(name, norm, DIGITS)) == sum(tensor.nbytes for tensor in state.values())


def test_building_leaves_the_global_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models.build(small("mlp", "", DIGITS), seed=0)
    models.size_bytes(small("mlp", "", DIGITS))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_689_512), ("resnet50", 25_557_032)],
)
def test_torchvision_layouts_have_torchvision_parameter_counts(name: str, parameters: int):
    with torch.device("meta"):
        family = models.FAMILIES[name]
        network = family.make(Architecture(name, (3, 224, 224), 1000, 64, family.depth, "batch"))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_resnet50_has_the_names_and_shapes_of_torchvision():
    state = models.build(Architecture("resnet50", CIFAR, classes=1000, width=64), seed=0).state_dict()
    assert len(state) == 320
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.num_batches_tracked": (),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer4.2.conv2.weight": (512, 512, 3, 3),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_residual_block_adds_its_shortcut(block: type[BasicBlock] | type[Bottleneck]):
    one, x = block(4, 8, 2, "layer"), torch.randn(2, 4, 6, 6)
    last = one.bn3 if isinstance(one, Bottleneck) else one.bn2
    assert isinstance(last, ChannelNorm)
    nn.init.zeros_(last.weight)
    torch.testing.assert_close(one(x), one.downsample(x).relu())


@pytest.mark.parametrize(("depth", "convolutions"), [(8, 9), (20, 21), (32, 33)])
def test_resnet20_by_depth_counts_its_layers(depth: int, convolutions: int):
    network = models.build(Architecture("resnet20", CIFAR, 10, width=4, depth=depth), seed=0)
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(found) == convolutions  # depth - 1 and the two projections


@pytest.mark.parametrize(("name", "convolutions"), [("vgg11", 8), ("vgg16", 13)])
def test_vgg_has_its_convolutions_and_the_width_scales_them(name: str, convolutions: int):
    network = models.build(Architecture(name, CIFAR, 10, width=4), seed=0)
    found = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert (len(found), found[0], found[-1]) == (convolutions, 4, 32)


def test_channel_norm_normalises_each_pixel_over_its_channels():
    normed = ChannelNorm(6)(3 + 2 * torch.randn(2, 6, 4, 4))
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(1, correction=0), torch.ones(2, 4, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_the_classifier_of_every_network_is_found(name: str, norm: str):
    network = models.build(small(name, norm, DIGITS), seed=0)
    assert models.head_name(network) == "fc"


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(ModelError, match=r"Sequential has no nn\.Linear"):
        models.head_name(nn.Sequential(nn.ReLU()))


def own_network(architecture: Architecture) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, architecture.classes))


def no_network(architecture: Architecture) -> int:
    return architecture.classes


def test_a_network_of_the_users_own_is_built_from_the_seed():
    architecture = Architecture(f"{__name__}:own_network", DIGITS, 3)
    first, again = (models.build(architecture, seed=1) for _ in range(2))
    assert first(torch.randn(2, *DIGITS)).shape == (2, 3)
    assert torch.equal(first.state_dict()["1.weight"], again.state_dict()["1.weight"])


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (Architecture("resnet2O", DIGITS, 10), "did you mean 'resnet20'"),
        (Architecture("resnet.20", DIGITS, 10), "did you mean 'resnet20'"),
        (Architecture("my.nets.mlp", DIGITS, 10), "did you mean 'my.nets:mlp'"),
        (Architecture("resnet", DIGITS, 10), "There are mlp, vgg11, .*module:function"),
        (Architecture("nowhere.net:build", DIGITS, 10), "no module 'nowhere'.*current folder is"),
        (Architecture("math:nothing", DIGITS, 10), "no function 'nothing' in "),
        (Architecture("sys:nothing", DIGITS, 10), "no function .nothing. in <module .sys. "),
        (Architecture("math:", DIGITS, 10), "expected module:function"),
        (Architecture(f"{__name__}:no_network", DIGITS, 10), "returned int, expected an nn.Module"),
        (Architecture("resnet20", DIGITS, 10, depth=21), "depth 21 is not one of 8, 14, 20, …"),
        (Architecture("resnet18", DIGITS, 10, depth=34), "depth 34 is not one of 18$"),
        (Architecture("resnet18", DIGITS, 10, norm="none"), "norm 'none' is not one of batch, layer"),
        (Architecture("mlp", DIGITS, 10, width=-1), "must be positive"),
        (Architecture("transformer", DIGITS, 10, width=6), "width 6 does not divide into 4 heads"),
        (Architecture("gru", (5,), 10), r"shape \(5,\): expected \(time, features\)"),
        (Architecture("vgg11", (64,), 10), r"shape \(64,\): expected \(channels, height, width\)"),
        (Architecture("resnet20", (64,), 10), r"shape \(64,\): expected \(channels, height, width\)"),
        (Architecture("resnet18", (64,), 10), r"shape \(64,\): expected \(channels, height, width\)"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(architecture: Architecture, said: str):
    with pytest.raises(ModelError, match=said):
        models.build(architecture, seed=0)


def test_an_error_inside_the_users_module_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_network.py").write_text("import a_library_that_is_absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_absent"):
        models.build(Architecture("broken_network:build", DIGITS, 10), seed=0)
