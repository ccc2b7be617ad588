"""The multilayer perceptron."""

from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from models.architecture import Architecture
from models.norms import vector_norm


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units on the flattened input, then the classifier `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        sizes = [prod(architecture.shape)] + [width] * architecture.depth
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), vector_norm(architecture.norm, after), nn.ReLU())
                for before, after in pairwise(sizes)
            )
        )
        self.fc = nn.Linear(width, architecture.classes)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return self.fc(self.layers(x.flatten(1)))
