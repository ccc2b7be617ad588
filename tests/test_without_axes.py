"""Parameters and buffers without an axis, such as a temperature: covered by privacy as all others are."""

from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import Tensor, nn

from client.own import load_own
from client.site import Site
from models import Architecture, build
from server.summary import read_rounds
from strategies.mean import exact_mean
from strategies.protocol import ARRAYS, TRAIN, to_state
from tests.inprocess import play_in_process, quick_settings

MODEL = "tests.test_without_axes:scaled"
SHARED = {"start": "shared", "align_at": "site", "probe_points": 0, "model": MODEL, "width": 0, "depth": 0, "epochs": 3}


class Scaled(nn.Module):
    """A perceptron with a learnt scale, and a running mean, that are one number each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 16)
        self.fc = nn.Linear(16, classes)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.seen: Tensor
        self.register_buffer("seen", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * x.detach().mean())
        return self.fc(self.hidden(x.flatten(1)).relu()) * self.scale


def scaled(architecture: Architecture) -> nn.Module:
    """What ``model`` names."""
    return Scaled(architecture.classes)


def start() -> dict[str, Tensor]:
    return build(Architecture(MODEL, (1, 8, 8), 10), 0).state_dict()


def sent_in(tmp_path: Path, **changes: object) -> dict[str, Tensor]:
    """What the first of three sites sends."""
    left: dict[int, dict[str, Tensor]] = {}

    def keep(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == TRAIN:
            left[partition] = to_state(reply.content.array_records[ARRAYS])
        return reply

    play_in_process(quick_settings(tmp_path, **SHARED, **changes), 3, keep)
    return left[0]


def test_an_update_is_clipped_with_what_has_no_axis(tmp_path: Path) -> None:
    sent, base = sent_in(tmp_path, privacy="clipping", clipping_norm=0.01), start()
    squares = {name: (sent[name] - base[name]).double().square().sum().item() for name in base}
    assert squares["scale"] > 0
    assert sum(squares.values()) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def test_what_has_no_axis_is_noised(tmp_path: Path) -> None:
    """By a deviation of 19.4: unnoised it moves by less than one."""
    moved = [
        (sent_in(tmp_path / str(seed), privacy="local-dp", seed=seed)["scale"] - start()["scale"]).abs().item()
        for seed in range(3)
    ]
    assert max(moved) > 2


@pytest.mark.parametrize("privacy", ["clipping", "local-dp"])
def test_a_buffer_without_an_axis_does_not_leave_its_site(tmp_path: Path, privacy: str) -> None:
    sent, base = sent_in(tmp_path, privacy=privacy), start()
    assert torch.equal(sent["seen"], base["seen"])
    assert {name: tensor.shape for name, tensor in sent.items()} == {n: tensor.shape for n, tensor in base.items()}


def test_the_masked_mean_holds_what_has_no_axis_and_no_buffer(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, **SHARED, privacy="secure-aggregation", min_sites=3), 3)
    (record,) = read_rounds(store)
    states = [load_own(Site(site, store.directory / "sites" / site, "digits")) for site in record.weights]
    found = store.network(1)
    expected = exact_mean([state for state in states if state is not None], list(record.weights.values()), found)
    assert expected["scale"] != 1
    assert expected["seen"] != 0
    assert torch.equal(found["seen"], start()["seen"])
    assert found["scale"].shape == ()
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in found if name != "seen")
