"""Whole architectures: every hidden axis is free, and the count and sizes of groups are those known by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from alignment.tracing import derive_spec
from tests.derived import derived, freedom, layout
from tests.networks import (
    GPT,
    VGG,
    VGG11,
    VGG16,
    DenseNet,
    DiffusionUNet,
    LSTMClassifier,
    MobileNet,
    ResNet,
    ViT,
    resnet18,
    resnet34,
    resnet50,
)

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[1, 4, 2, 10], [3, 3, 0, 7]])


@pytest.mark.parametrize(("net", "depths"), [(resnet18(), (2, 2, 2, 2)), (resnet34(), (3, 4, 6, 3))])
def test_resnets_have_a_group_per_block_and_one_per_stage(net: ResNet, depths: Sequence[int]) -> None:
    spec = derived(net, IMAGE)
    inner = {f"layer{stage}.{place}.conv1" for stage, depth in enumerate(depths, 1) for place in range(depth)}
    assert set(spec.groups) == inner | {"conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}
    assert layout(spec, "layer2.0.downsample.0.weight") == ["layer2.0.conv2", "conv1", "1", "1"]
    assert layout(spec, "layer2.1.conv2.weight")[:2] == ["layer2.0.conv2", "layer2.1.conv1"]
    assert layout(spec, "layer4.0.downsample.1.running_mean") == ["layer4.0.conv2"]
    assert layout(spec, "fc.weight") == ["5", "layer4.0.conv2"]


def test_resnet_50_has_two_groups_per_block_and_one_per_stage() -> None:
    spec = derived(resnet50(), IMAGE)
    assert len(spec.groups) == 2 * 16 + 4 + 1
    assert layout(spec, "layer1.2.conv3.weight")[:2] == ["layer1.0.conv3", "layer1.2.conv2"]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("plan", [VGG11, VGG16])
def test_vggs_have_a_group_per_hidden_layer(plan: Sequence[int], norm: bool) -> None:
    spec = derived(VGG(plan, norm), torch.randn(2, 3, 32, 32))
    assert list(spec.groups.values()) == [*filter(None, plan), 9, 10]
    last = list(spec.groups)[-3]
    assert layout(spec, "classifier.0.weight") == ["classifier.0", f"{last}·4"]


def test_densenet_reads_segments() -> None:
    spec = derived(DenseNet(), IMAGE)
    assert list(spec.groups.values()) == [4, 6, 3, 6, 3, 6, 3, 7]
    assert layout(spec, "layers.2.0.weight") == ["stem + layers.0.5 + layers.1.5"]
    assert layout(spec, "transition.2.weight")[1] == "stem + layers.0.5 + layers.1.5 + layers.2.5"


def test_mobilenet_moves_depthwise_and_squeezed_channels() -> None:
    spec = derived(MobileNet(), IMAGE)
    assert list(spec.groups.values()) == [4, 9, 3, 10, 3, 6, 11, 3, 8]
    assert layout(spec, "blocks.1.body.3.weight") == ["blocks.1.body.0", "1", "3", "3"]
    assert layout(spec, "blocks.1.body.5.expand.weight")[:2] == ["blocks.1.body.0", "blocks.1.body.5.reduce"]


def test_a_diffusion_unet_moves_groups_heads_and_time() -> None:
    spec = derived(DiffusionUNet(), IMAGE[:, :, :8, :8], torch.tensor([3, 7]))
    assert len(spec.groups) == 21
    assert layout(spec, "down2.time.weight") == ["down2.conv1.groups·down2.conv1.units", "time.2"]
    assert layout(spec, "middle.qkv.weight")[0] == (
        "2·middle.qkv.heads·middle.qkv.units + middle.qkv.heads·middle.qkv.units.2"
    )
    # GroupNorm over 6 + 4 channels in runs of five: one of the six meets the four and stays.
    assert layout(spec, "grow.weight")[:2] == ["up2.conv2", "grow + 1"]
    assert layout(spec, "up1.norm1.weight") == ["grow + 1 + stem.groups·stem.units"]


def test_gpt_moves_stream_heads_and_hidden_units() -> None:
    spec = derived(GPT(), TOKENS)
    heads = "blocks.1.attn.c_attn.heads"
    assert list(spec.groups.values()) == [12, 3, 4, 4, 13, 3, 4, 4, 13]
    assert freedom(spec)["blocks.1.attn.c_attn.units"] == (heads, 4)
    assert layout(spec, "lm_head.weight") == layout(spec, "wte.weight") == ["11", "wte"]
    assert layout(spec, "wpe.weight") == ["16", "wte"]
    assert layout(spec, "blocks.1.attn.c_proj.weight") == ["wte", f"{heads}·blocks.1.attn.c_attn.units.2"]


def test_vit_moves_stream_heads_and_hidden_units() -> None:
    spec = derived(ViT(), IMAGE[:, :, :8, :8])
    assert list(spec.groups.values()) == [12, 3, 4, 4, 14, 3, 4, 4, 14]
    assert layout(spec, "pos_embed") == ["1", "5", "cls_token"]
    assert layout(spec, "patch_embed.weight") == ["cls_token", "3", "4", "4"]
    assert layout(spec, "blocks.1.scale") == ["cls_token"]


def test_an_lstm_classifier_moves_every_layer_and_direction() -> None:
    spec = derived(LSTMClassifier(), TOKENS)
    assert freedom(spec) == {"embed": 6, "lstm.l0": 5, "lstm.l0_reverse": 5, "lstm.l1": 5, "lstm.l1_reverse": 5}


class Counting(GPT):
    """Counts how often it is run, in all of its copies."""

    runs = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        Counting.runs += 1
        return super().forward(tokens)


def test_five_hundred_modules_are_derived_in_as_many_runs_as_fifty() -> None:
    runs: list[int] = []
    for depth in (5, 50):
        Counting.runs = 0
        net = Counting(depth=depth)
        assert len(derive_spec(net, (TOKENS,)).groups) == 4 * depth + 1
        runs.append(Counting.runs)
    assert sum(1 for _ in net.modules()) > 500
    # Two heads: a single permutation of them would be the identity every other time.
    assert runs[0] == runs[1] < 20
