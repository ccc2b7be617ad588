"""Real architectures, narrow: what a spec must be derivable from. Widths differ everywhere, so that no tie is luck."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50)."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(n_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def _projection(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and n_in == n_out:
        return None
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """He et al. 2015, with the names of torchvision."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], width: int = 4, n_classes: int = 5
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        n_in, stages = width, list[nn.Module]()
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for place in range(depth):
                stride = 2 if stage and place == 0 else 1
                blocks.append(block(n_in, width << stage, stride))
                n_in = (width << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_in, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(width: int = 4) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), width)


def resnet34(width: int = 4) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), width)


def resnet50(width: int = 4) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), width)


VGG11 = (4, 0, 5, 0, 6, 6, 0, 7, 7, 0, 8, 8, 0)
VGG16 = (4, 4, 0, 5, 5, 0, 6, 6, 6, 0, 7, 7, 7, 0, 8, 8, 8, 0)


class VGG(nn.Module):
    """Simonyan and Zisserman 2014; a width of 0 is a pool. Flattens 2 x 2 positions per channel."""

    def __init__(self, plan: Sequence[int], norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 3
        for width in plan:
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(n_in, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            n_in = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            *(nn.Linear(4 * n_in, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 10), nn.ReLU(), nn.Linear(10, 5))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class DenseNet(nn.Module):
    """Huang et al. 2016: every layer reads all before it."""

    def __init__(self, growth: int = 3, n_layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        widths = [4 + growth * n for n in range(n_layers + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                *(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 2 * growth, 1, bias=False), nn.BatchNorm2d(2 * growth)),
                *(nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)),
            )
            for n in widths[:-1]
        )
        self.transition = nn.Sequential(
            *(nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], 7, 1, bias=False), nn.AvgPool2d(2))
        )
        self.norm = nn.BatchNorm2d(7)
        self.classifier = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        out = F.relu(self.norm(self.transition(torch.cat(features, 1))))
        return self.classifier(F.adaptive_avg_pool2d(out, 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Hu et al. 2017: scales each channel by what all of them say."""

    def __init__(self, n_channels: int, n_squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(n_channels, n_squeezed, 1)
        self.expand = nn.Conv2d(n_squeezed, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(scale))))


class InvertedResidual(nn.Module):
    """MobileNetV3: expand, depthwise, squeeze and excite, project."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and n_in == n_out
        self.body = nn.Sequential(
            *(nn.Conv2d(n_in, n_hidden, 1, bias=False), nn.BatchNorm2d(n_hidden), nn.Hardswish()),
            *(nn.Conv2d(n_hidden, n_hidden, 3, stride, 1, groups=n_hidden, bias=False), nn.BatchNorm2d(n_hidden)),
            *(SqueezeExcite(n_hidden, 3), nn.Hardswish()),
            *(nn.Conv2d(n_hidden, n_out, 1, bias=False), nn.BatchNorm2d(n_out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """Howard et al. 2019, three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(4, 9, 4, 1), InvertedResidual(4, 10, 6, 2), InvertedResidual(6, 11, 6, 1)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.Hardswish())
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))))


class TimedBlock(nn.Module):
    """The residual block of a diffusion U-Net: GroupNorm, and a shift that the time embedding gives."""

    def __init__(self, n_in: int, n_out: int, n_time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(2, n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time = nn.Linear(n_time, n_out)
        self.norm2 = nn.GroupNorm(2, n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class PixelAttention(nn.Module):
    """Self-attention over the positions of an image."""

    def __init__(self, n_channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(2, n_channels)
        self.qkv = nn.Conv2d(n_channels, 3 * n_channels, 1)
        self.out = nn.Conv2d(n_channels, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=1)
        q, k, v = (t.reshape(b, self.n_heads, c // self.n_heads, h * w).transpose(2, 3) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(out.transpose(2, 3).reshape(b, c, h, w))


class DiffusionUNet(nn.Module):
    """Ho et al. 2020: two resolutions, skip concatenations, attention in the middle."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.n_frequencies = 6
        self.time = nn.Sequential(nn.Linear(2 * self.n_frequencies, 10), nn.SiLU(), nn.Linear(10, 9))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = TimedBlock(width, width, 9)
        self.shrink = nn.Conv2d(width, 6, 3, 2, 1)
        self.down2 = TimedBlock(6, 8, 9)
        self.middle = PixelAttention(8, 2)
        self.up2 = TimedBlock(8 + 6, 8, 9)
        self.grow = nn.ConvTranspose2d(8, 6, 2, 2)
        self.up1 = TimedBlock(6 + width, 8, 9)
        self.norm = nn.GroupNorm(4, 8)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        frequencies = torch.exp(-torch.arange(self.n_frequencies, dtype=x.dtype, device=x.device))
        angles = step.to(x.dtype)[:, None] * frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        wide = self.down1(self.stem(x), time)
        small = self.shrink(wide)
        h = self.middle(self.down2(small, time))
        h = self.grow(self.up2(torch.cat([h, small], 1), time))
        h = self.up1(torch.cat([h, wide], 1), time)
        return self.out(F.silu(self.norm(h)))


class CausalAttention(nn.Module):
    """The attention of GPT-2: one projection for queries, keys and values."""

    mask: Tensor

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.c_attn(x).split(c, dim=2)
        q, k, v = (y.view(b, t, self.n_heads, c // self.n_heads).transpose(1, 2) for y in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) / (c // self.n_heads) ** 0.5
        scores = scores.masked_fill(self.mask[:t, :t] == 0, float("-inf"))
        out = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, c)
        return self.c_proj(out)


class GPTBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, n_heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 13), nn.GELU(), nn.Linear(13, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Radford et al. 2019, tied embeddings."""

    def __init__(self, n_tokens: int = 11, width: int = 12, n_heads: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.wte = nn.Embedding(n_tokens, width)
        self.wpe = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(GPTBlock(width, n_heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, n_tokens, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch time tokens"]:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class ViTAttention(nn.Module):
    """The attention of timm: reshape, permute, unbind."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.n_heads, c // self.n_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = (q * (c // self.n_heads) ** -0.5) @ k.transpose(-2, -1)
        return self.proj((attention.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ViTAttention(width, n_heads)
        self.scale = nn.Parameter(torch.zeros(width))
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 14)
        self.fc2 = nn.Linear(14, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Dosovitskiy et al. 2020: patches, a class token, positions."""

    def __init__(self, width: int = 12, n_heads: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 5, width))
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(ViTBlock(width, n_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, image: Float[Tensor, "batch 3 8 8"]) -> Float[Tensor, "batch classes"]:
        x = self.patch_embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class LSTMClassifier(nn.Module):
    """Embedding, two bidirectional layers, the last step classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch classes"]:
        states, _ = self.lstm(self.embed(tokens))
        return self.head(states[:, -1])


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between, of the same weights each time."""
    torch.manual_seed(0)
    layers = [layer for n_in, n_out in pairwise(widths) for layer in (nn.Linear(n_in, n_out), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class TanhClassifier(nn.Module):
    """One hidden layer, whose outputs are the features of the last one."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(4, features)
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).tanh())


class Turning(nn.Module):
    """A complex layer, whose values' sizes a real one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.out = nn.Linear(4, 6, dtype=torch.complex64), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.turn(x.to(torch.complex64)).abs())
