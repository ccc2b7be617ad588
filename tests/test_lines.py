"""The line between two networks, where a point on it has statistics that its network cannot hold."""

from pathlib import Path

from torch import Tensor, nn

from client.app import app
from models import Architecture, build
from server.probing import probe
from server.sites import Sites
from tests.inprocess import InProcessGrid, quick_settings


class Half(nn.Module):
    """A network in half precision, which ends at 65,504."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.inner, self.norm, self.fc = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.inner(x.flatten(1).half())).relu())


def test_a_line_with_statistics_that_a_network_cannot_hold_is_not_measured_and_the_run_goes_on(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, model="tests.test_lines:Half")
    model = build(Architecture(*settings.network), 0)
    sites = Sites(InProcessGrid(app, settings, 2), settings)
    sites.join()
    small = model.state_dict()
    # Each value is below the end of the format, and their variance is above it.
    large = {name: tensor * 1000 if name == "inner.weight" else tensor for name, tensor in small.items()}
    assert all(bool(tensor.isfinite().all()) for tensor in large.values())
    assert probe(sites, model, small, small, 3) is not None
    assert probe(sites, model, small, large, 3) is None
    assert sites.notes == [
        "a line is not measured, at λ = 1: moments of 'norm': its 'running_var' is not finite in torch.float16"
    ]
