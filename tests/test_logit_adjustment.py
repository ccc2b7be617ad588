"""Training that does not learn which classes are frequent at its site."""

from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn

from client.app import app
from client.training import Objective, class_shift
from models import Architecture, build
from server.summary import read_rounds
from strategies.protocol import ARRAYS, CONFIG, ROUND, START, TRAIN, to_arrays, to_state
from tests.inprocess import FIRST_NODE, InProcessGrid, play_in_process, quick_settings


def test_the_shift_is_a_share_of_the_logarithms_of_the_frequencies() -> None:
    shift = class_shift([30, 10, 0], 0.5)
    assert shift is not None
    assert torch.allclose(shift, 0.5 * torch.tensor([0.75, 0.25, 0.0]).log())
    assert class_shift([30, 10, 0], 0.0) is None


def test_the_loss_is_that_of_shifted_logits_and_absent_classes_are_left_out() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 3, requires_grad=True), torch.tensor([0, 0, 1] * 3)
    loss = Objective(class_shift([6, 3, 0], 1.0)).loss(torch.empty(9, 1), logits, targets)
    weighed = logits.exp() * torch.tensor([6.0, 3.0, 0.0])
    expected = -(weighed[range(9), targets] / weighed.sum(-1)).log().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, 2], torch.zeros(9))
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("adjustment", [0.0, 0.5, 1.0])
def test_a_network_learns_the_share_of_the_frequencies_that_is_left(adjustment: float) -> None:
    """Where inputs say nothing, of nine to one it keeps nine to one, three to one, or evens."""
    targets = torch.tensor([0] * 9 + [1])
    logits = nn.Parameter(torch.zeros(2))
    objective = Objective(class_shift([9, 1], adjustment))
    descent = torch.optim.SGD([logits], 1.0)
    for _ in range(500):
        descent.zero_grad()
        objective.loss(torch.empty(10, 1), logits.expand(10, 2), targets).backward()
        descent.step()
    odds = (logits[0] - logits[1]).exp().item()
    assert odds == pytest.approx(9 ** (1 - adjustment), rel=0.01)


@pytest.mark.parametrize(("adjustment", "stay"), [(1.0, True), (0.0, False)])
def test_a_site_leaves_rows_of_classes_that_it_lacks(tmp_path: Path, adjustment: float, stay: bool) -> None:
    """Sites with disjoint labels do not unlearn each other's classes in the last layer."""
    settings = quick_settings(
        tmp_path, split="disjoint", logit_adjustment=adjustment, weight_decay=0.0, epochs=1, min_sites=2
    )
    sent = build(Architecture(*settings.network), 7).state_dict()
    content = RecordDict({ARRAYS: to_arrays(sent), CONFIG: ConfigRecord({ROUND: 1, START: "shared"})})
    grid = InProcessGrid(app, settings, 2)
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, TRAIN)])
    trained = to_state(reply.content.array_records[ARRAYS])
    moved = (trained["fc.weight"] != sent["fc.weight"]).any(1)
    assert moved.sum() == (5 if stay else 10)


def test_what_was_not_learnt_is_not_corrected_for(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, logit_adjustment=1.0, baselines=True, split="biased", epochs=1)
    (record,) = read_rounds(play_in_process(settings))
    assert record.baselines["site-us"] == record.baselines["site-us.corrected"]
