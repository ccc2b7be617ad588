"""Schedules of a site's training."""

import pytest
import torch
from torch import nn

from client.sources import Samples
from client.training import Schedule, train


@pytest.mark.parametrize("epochs", range(1, 8))
def test_any_number_of_steps_has_a_schedule(epochs: int) -> None:
    """OneCycleLR divides by the steps of its rise less one."""
    samples = Samples(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    schedule = Schedule(epochs=epochs, batch_size=4, learning_rate=0.1, weight_decay=0.0, seed=0)
    assert train(model, samples, schedule, torch.device("cpu")) > 0
