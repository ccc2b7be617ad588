"""A classifier of sequences with gated recurrent units (arXiv 1406.1078)."""

from jaxtyping import Float
from torch import Tensor, nn

from models.architecture import Architecture
from models.sequence import as_sequence, sequence_shape


class GRU(nn.Module):
    """``depth`` recurrent layers of ``width`` units; the last state enters the classifier `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        _, features = sequence_shape(architecture.shape)
        self.gru = nn.GRU(features, architecture.width, architecture.depth, batch_first=True)
        self.fc = nn.Linear(architecture.width, architecture.classes)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        states, _ = self.gru(as_sequence(x))
        return self.fc(states[:, -1])
