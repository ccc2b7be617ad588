"""A classifier of sequences with self-attention (arXiv 1706.03762), normalised before each block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.architecture import Architecture
from models.errors import ModelError
from models.sequence import as_sequence, sequence_shape

HEADS = 4


class Attention(nn.Module):
    """Self-attention with `HEADS` heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        """What each place reads from all places."""
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention and a perceptron of one hidden layer, each added to what entered it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        """The stream after this block."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """``depth`` blocks on a stream of ``width`` units with learnt positions; its mean enters `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        if width % HEADS:
            raise ModelError(f"transformer: width {width} does not divide into {HEADS} heads")
        time, features = sequence_shape(architecture.shape)
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(time, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width) for _ in range(architecture.depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, architecture.classes)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        stream = self.blocks(self.embed(as_sequence(x)) + self.position)
        return self.fc(self.norm(stream).mean(1))
