"""A network of which messages could not hold a tensor is refused before anybody trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cli.settings import checked_settings
from models import Architecture
from strategies.errors import SettingsError
from tests.inprocess import play_in_process, quick_settings


class Filter(nn.Module):
    """A layer of complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.abs()


class Counting(nn.Identity):
    """Keeps a dictionary in its state."""

    def get_extra_state(self) -> Any:
        return {"samples": 3}

    def set_extra_state(self, state: Any) -> None:
        """Nothing is kept."""


class Narrow(nn.Module):
    """A layer whose weights are bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.to(self.fc.weight.dtype)).to(x.dtype)


def complex_filter(_: Architecture) -> nn.Module:
    return nn.Sequential(Filter(), nn.Flatten(), nn.Linear(64, 10))


def counting(_: Architecture) -> nn.Module:
    return nn.Sequential(Counting(), nn.Flatten(), nn.Linear(64, 10))


def narrow(_: Architecture) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Narrow())


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("complex_filter", "'0.weight' is complex64"),
        ("counting", "'0._extra_state' is no tensor but dict"),
        ("narrow", "'1.fc.weight' is bfloat16"),
    ],
)
def test_what_messages_do_not_carry_is_told_before_anybody_trains(tmp_path: Path, model: str, told: str) -> None:
    settings = quick_settings(tmp_path, model=f"tests.test_carried:{model}", width=0, depth=0)
    with pytest.raises(SettingsError, match=(refused := f"setting 'model': {told}, which messages")):
        play_in_process(settings)
    with pytest.raises(SettingsError, match=refused):
        checked_settings(settings.model_dump(by_alias=True))
