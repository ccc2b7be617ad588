"""Schedules of a site's training, and what it draws."""

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


def trained_on(seed: int, drawn_before: int) -> torch.Tensor:
    """A layer behind dropout, trained with that seed in a process that has drawn so many numbers before."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 4))
    torch.rand(drawn_before)
    images = torch.arange(1, 65, dtype=torch.uint8).reshape(16, 1, 2, 2)
    samples = Samples(images, torch.arange(16) % 4)
    # Whole batches: the order of the samples makes no difference.
    schedule = Schedule(epochs=2, batch_size=16, learning_rate=0.1, weight_decay=0.0, seed=seed)
    train(model, samples, schedule, torch.device("cpu"))
    return model.state_dict()["2.weight"]


def test_dropout_is_decided_by_the_seed_and_by_nothing_that_a_process_drew_before() -> None:
    assert torch.equal(trained_on(3, 0), trained_on(3, 5))
    assert not torch.allclose(trained_on(3, 0), trained_on(4, 0))
