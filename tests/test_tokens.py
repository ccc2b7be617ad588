"""A federation whose network takes tokens, which floats cannot stand for."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from cli.settings import checked_settings
from models import Architecture, ModelError, build, example_inputs
from server.summary import read_rounds
from strategies.errors import SettingsError
from strategies.settings import Settings
from tests.inprocess import play_in_process, quick_settings

N_WORDS = 11


def reader(architecture: Architecture) -> nn.Module:
    """Reads words in an order."""
    time = architecture.shape[0]
    hidden = nn.Linear(8 * time, 16)
    return nn.Sequential(
        nn.Embedding(N_WORDS, 8),
        nn.Flatten(),
        hidden,
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, architecture.classes),
    )


def reader_example(architecture: Architecture) -> Tensor:
    return torch.randint(0, N_WORDS, (2, *architecture.shape))


def untold(architecture: Architecture) -> nn.Module:
    """The same without an example."""
    return reader(architecture)


def failing(architecture: Architecture) -> nn.Module:
    return reader(architecture)


def failing_example(architecture: Architecture) -> Tensor:
    raise ValueError("no words")


def listing(architecture: Architecture) -> nn.Module:
    return reader(architecture)


def listing_example(architecture: Architecture) -> list[int]:
    return [1, 2]


def sentences() -> tuple[Tensor, Tensor]:
    """Its class is the first word's remainder."""
    words = torch.randint(0, N_WORDS, (400, 5), generator=torch.Generator().manual_seed(0))
    return words, words[:, 0] % 3


def told(name: str) -> dict[str, object]:
    here = "tests.test_tokens"
    return {"model": f"{here}:{name}", "data": f"{here}:sentences", "shape": "5", "classes": 3, "width": 0, "depth": 0}


@pytest.mark.parametrize(
    "changes", [{}, {"align_at": "both", "merge": "least-squares"}, {"repair": True, "start": "seed"}]
)
def test_a_network_that_takes_tokens_is_trained_aligned_and_merged(tmp_path: Path, changes: dict[str, object]) -> None:
    settings = quick_settings(tmp_path, **told("reader"), learning_rate=0.2, epochs=20, split="iid", **changes)
    (record,) = read_rounds(play_in_process(settings))
    assert (record.outcome, record.refused, len(record.weights)) == ("merged", [], 2)
    assert record.merged is not None
    assert record.merged.accuracy > 0.5
    assert record.matchings


@pytest.mark.parametrize("align_at", ["server", "none"])
def test_without_an_example_the_run_says_what_to_do(tmp_path: Path, align_at: str) -> None:
    with pytest.raises(SettingsError, match=r"does not take 5: .*float32.* untold_example\(architecture\) beside"):
        play_in_process(quick_settings(tmp_path, **told("untold"), align_at=align_at))


def test_without_an_example_its_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"setting 'shape': .* define untold_example"):
        checked_settings({**Settings().model_dump(by_alias=True), **told("untold")})


@pytest.mark.parametrize(
    ("name", "text"), [("failing", "raised ValueError: no words"), ("listing", "returned list, expected a tensor")]
)
def test_an_example_that_is_none_is_refused(name: str, text: str) -> None:
    with pytest.raises(ModelError, match=f"its example, called with .* {text}"):
        example_inputs(Architecture(str(told(name)["model"]), (5,), 3))


def test_the_example_is_drawn_from_the_seed_and_leaves_the_generator_alone() -> None:
    architecture = Architecture(str(told("reader")["model"]), (5,), 3)
    before = torch.get_rng_state()
    (first,), (again,) = example_inputs(architecture), example_inputs(architecture)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert cast(Tensor, build(architecture, 0).eval()(first)).shape == (2, 3)
