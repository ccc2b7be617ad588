"""The residual blocks (arXiv 1512.03385) under the names that torchvision's state dicts use.

`bn1` and its like hold whichever normalisation was asked for. Each ReLU is a module of its own, so that a
hook on it sees one set of units.
"""

from jaxtyping import Float
from torch import Tensor, nn

from models.norms import image_norm


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, before: int, planes: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, padding=1, bias=False)
        self.bn1 = image_norm(norm, planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = image_norm(norm, planes)
        self.downsample = _shortcut(before, planes, stride, norm)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "batch before h w"]) -> Float[Tensor, "batch after h2 w2"]:
        """The block's output, after its non-linearity."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions and a shortcut; the stride sits on the 3 × 3, as in torchvision."""

    expansion = 4

    def __init__(self, before: int, planes: int, stride: int, norm: str) -> None:
        super().__init__()
        after = planes * self.expansion
        self.conv1 = nn.Conv2d(before, planes, 1, bias=False)
        self.bn1 = image_norm(norm, planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = image_norm(norm, planes)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(planes, after, 1, bias=False)
        self.bn3 = image_norm(norm, after)
        self.downsample = _shortcut(before, after, stride, norm)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "batch before h w"]) -> Float[Tensor, "batch after h2 w2"]:
        """The block's output, after its non-linearity."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.relu2(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


def stage(
    block: type[BasicBlock] | type[Bottleneck], before: int, planes: int, blocks: int, stride: int, norm: str
) -> nn.Sequential:
    """``blocks`` blocks in a row, the first with ``stride``."""
    after = planes * block.expansion
    first = block(before, planes, stride, norm)
    return nn.Sequential(first, *(block(after, planes, 1, norm) for _ in range(blocks - 1)))


def _shortcut(before: int, after: int, stride: int, norm: str) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), image_norm(norm, after))
