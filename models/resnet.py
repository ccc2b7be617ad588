"""ResNet-18 and ResNet-50 (arXiv 1512.03385) in torchvision's layout: its state dicts load."""

from jaxtyping import Float
from torch import Tensor, nn

from models.architecture import Architecture
from models.norms import image_norm, initialise_convolutions
from models.residual import BasicBlock, Bottleneck, stage

LAYOUTS = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}


class ResNet(nn.Module):
    """The 7 × 7 stem with its pooling, four stages of width, 2, 4 and 8 · width, then mean and `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, norm = architecture.width, architecture.norm
        block, blocks = LAYOUTS[architecture.depth]
        out = width * block.expansion
        self.conv1 = nn.Conv2d(architecture.image[0], width, 7, 2, padding=3, bias=False)
        self.bn1 = image_norm(norm, width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(block, width, width, blocks[0], 1, norm)
        self.layer2 = stage(block, out, 2 * width, blocks[1], 2, norm)
        self.layer3 = stage(block, 2 * out, 4 * width, blocks[2], 2, norm)
        self.layer4 = stage(block, 4 * out, 8 * width, blocks[3], 2, norm)
        self.fc = nn.Linear(8 * out, architecture.classes)
        initialise_convolutions(self)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))
