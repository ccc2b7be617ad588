"""VGG-11 and VGG-16 (arXiv 1409.1556), scaled by width, with one linear classifier for small images."""

from jaxtyping import Float
from torch import Tensor, nn

from models.architecture import Architecture
from models.norms import image_norm, initialise_convolutions

# Channels of each convolution as multiples of the width; a row is a stage and ends with a pooling.
LAYOUTS = {
    11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
    16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
}


class VGG(nn.Module):
    """The convolutions of ``LAYOUTS[depth]``, flattened into the classifier `fc`.

    A pooling that would find a side of one pixel is left out, so that images of 8 × 8 pass too.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels, height, width = architecture.image
        layers: list[nn.Module] = []
        for stage in LAYOUTS[architecture.depth]:
            for multiple in stage:
                layers += _convolution(channels, multiple * architecture.width, architecture.norm)
                channels = multiple * architecture.width
            if min(height, width) > 1:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * height * width, architecture.classes)
        initialise_convolutions(self)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return self.fc(self.features(x).flatten(1))


def _convolution(before: int, after: int, norm: str) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=norm == "none")
    return [convolution, image_norm(norm, after), nn.ReLU()]
