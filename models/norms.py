"""The normalisations of convolutional networks, by name."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel, as in the residual networks of arXiv 2209.04836.

    `nn.GroupNorm` with one group is another function: it also takes its mean and variance over the pixels.
    """

    def forward(self, input: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:  # noqa: A002
        """``input``, each pixel normalised."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def image_norm(norm: str, channels: int) -> nn.Module:
    """The layer called ``norm`` for images of that many channels."""
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return ChannelNorm(channels)
        case _:
            return nn.Identity()


def vector_norm(norm: str, units: int) -> nn.Module:
    """The layer called ``norm`` for vectors of that many units."""
    match norm:
        case "batch":
            return nn.BatchNorm1d(units)
        case "layer":
            return nn.LayerNorm(units)
        case _:
            return nn.Identity()


def initialise_convolutions(model: nn.Module) -> None:
    """Draws every convolution of ``model`` from N(0, 2/fan_out) (He et al. 2015), biases zero. In place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
