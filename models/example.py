"""Made-up samples, to trace a network with."""

import torch
from torch import Tensor

from models.architecture import Architecture


def example_inputs(architecture: Architecture, seed: int = 0) -> tuple[Tensor]:
    """Two samples of the shape that the network takes, drawn from ``seed``."""
    return (torch.randn((2, *architecture.shape), generator=torch.Generator().manual_seed(seed)),)
