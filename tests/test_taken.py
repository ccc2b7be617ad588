"""A network that does not take samples as sites have them, or does not answer as a classifier, is told beforehand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli.settings import checked_settings
from models import Architecture
from server.summary import read_rounds
from strategies.errors import SettingsError
from tests.inprocess import play_in_process, quick_settings


def layers(architecture: Architecture) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, architecture.classes))


def double(architecture: Architecture) -> nn.Module:
    return layers(architecture).double()


def double_example(architecture: Architecture) -> Tensor:
    """What the network takes, and what no site gives it."""
    return torch.randn(2, *architecture.shape, dtype=torch.float64)


def half(architecture: Architecture) -> nn.Module:
    return layers(architecture).half()


class Casting(nn.Module):
    """Computes in double precision, and takes samples of any."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.layers = layers(architecture).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.double())


def casting(architecture: Architecture) -> nn.Module:
    return Casting(architecture)


class Pair(nn.Module):
    """Answers with its features too."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.layers = layers(architecture)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(x), x


def pair(architecture: Architecture) -> nn.Module:
    return Pair(architecture)


def by_place(architecture: Architecture) -> nn.Module:
    """A class for each row of an image."""
    return nn.Linear(8, architecture.classes)


@pytest.mark.parametrize("changes", [{}, {"head": "ridge"}, {"merge": "least-squares"}])
@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("double", r"does not take 1x8x8: .* weights are float64: call \.float\(\) on it, or cast samples"),
        ("half", r"does not take 1x8x8: .* weights are float16: call \.float\(\)"),
        ("pair", "answers with tuple, expected one tensor"),
        ("by_place", r"answers 2 samples with \(2, 1, 8, 10\), expected \(2, 10\)"),
    ],
)
def test_it_is_told_before_anybody_trains(tmp_path: Path, model: str, told: str, changes: dict[str, object]) -> None:
    settings = quick_settings(tmp_path, model=f"tests.test_taken:{model}", width=0, depth=0, **changes)
    with pytest.raises(SettingsError, match=told):
        play_in_process(settings)
    assert not (tmp_path / "test" / "sites").exists()
    with pytest.raises(SettingsError, match=told):
        checked_settings(settings.model_dump(by_alias=True))


def test_a_network_of_double_precision_that_casts_its_samples_is_merged_by_every_setting(tmp_path: Path) -> None:
    settings: dict[str, object] = {"model": "tests.test_taken:casting", "width": 0, "depth": 0, "epochs": 1}
    for number, changes in enumerate(
        (
            {"head": "ridge", "merge": "sequential", "repair": True, "align_at": "both"},
            {"head": "logistic", "merge": "least-squares", "mix": "search", "mix_points": 3, "align_at": "site"},
            {"head": "counts", "variants": True, "baselines": True, "distillation": 1.0, "rounds": 2},
        )
    ):
        store = play_in_process(quick_settings(tmp_path / str(number), **settings, **changes))
        assert all((record.outcome, record.refused) == ("merged", []) for record in read_rounds(store))
        assert all(tensor.dtype == torch.float64 for tensor in store.network(1).values())
