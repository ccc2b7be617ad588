"""The residual networks for small images (arXiv 1512.03385, section 4.2): ResNet-20 by width and depth."""

from jaxtyping import Float
from torch import Tensor, nn

from models.architecture import Architecture
from models.norms import image_norm, initialise_convolutions
from models.residual import BasicBlock, stage


class ResNet20(nn.Module):
    """Three stages of width, 2 · width and 4 · width, each of (depth - 2) / 6 blocks, then mean and `fc`.

    Where the shape changes the shortcut is a projection, which leaves each stage its own permutation.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, norm = architecture.width, architecture.norm
        blocks = (architecture.depth - 2) // 6
        self.conv1 = nn.Conv2d(architecture.image[0], width, 3, padding=1, bias=False)
        self.bn1 = image_norm(norm, width)
        self.relu = nn.ReLU()
        self.layer1 = stage(BasicBlock, width, width, blocks, 1, norm)
        self.layer2 = stage(BasicBlock, width, 2 * width, blocks, 2, norm)
        self.layer3 = stage(BasicBlock, 2 * width, 4 * width, blocks, 2, norm)
        self.fc = nn.Linear(4 * width, architecture.classes)
        initialise_convolutions(self)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))
