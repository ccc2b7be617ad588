"""The samples of which a site sends statistics: they stand for all that it holds, in an order that is drawn."""

from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from alignment.heads import GRAM as FEATURE_GRAM
from alignment.heads import TARGETS
from alignment.moments import mean_and_variance
from client.app import app
from client.sources import read_samples
from models import Architecture, build
from strategies.protocol import (
    ACROSS,
    CANDIDATE_END,
    CONFIG,
    FEATURES,
    GRAMS,
    LAMBDAS,
    LAYERS,
    MERGED,
    OUTPUTS,
    OWN,
    RECALIBRATE,
    REFERENCE_END,
    to_arrays,
    to_state,
)
from strategies.settings import Settings
from tests.inprocess import FIRST_NODE, InProcessGrid, quick_settings

TRAIN_SAMPLES = 1438


def by_class() -> tuple[Tensor, Tensor]:
    """Digits as a folder of images has them: class after class."""
    samples = read_samples("digits")
    order = samples.targets.argsort(stable=True)
    return samples.inputs[order], samples.targets[order]


def answer(settings: Settings, message_type: str, content: RecordDict, data: str = "digits") -> dict[str, Tensor]:
    grid = InProcessGrid(app, settings, 1, node_config={"data": data})
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, message_type)])
    return {
        name: tensor for record in reply.content.array_records.values() for name, tensor in to_state(record).items()
    }


def network(settings: Settings) -> RecordDict:
    return RecordDict({MERGED: to_arrays(build(Architecture(*settings.network), 0).state_dict())})


@pytest.mark.parametrize("most", [0, 100, 1000])
def test_sums_over_some_of_the_samples_weigh_as_much_as_all(tmp_path: Path, most: int) -> None:
    settings = quick_settings(tmp_path, head="ridge", statistics_samples=most)
    sums = answer(settings, FEATURES, network(settings))
    whole = answer(quick_settings(tmp_path, head="ridge"), FEATURES, network(settings))
    # Of other samples they are other sums.
    assert torch.equal(sums[FEATURE_GRAM], whole[FEATURE_GRAM]) is (most == 0)
    assert sums[FEATURE_GRAM][-1, -1].item() == pytest.approx(TRAIN_SAMPLES)
    assert sums[TARGETS][-1].sum().item() == pytest.approx(TRAIN_SAMPLES)


def test_so_do_moments_at_points_of_a_line(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, model="mlp", norm="batch", path_samples=64)
    state = to_arrays(build(Architecture(*settings.network), 0).state_dict())
    content = RecordDict({REFERENCE_END: state, CANDIDATE_END: state, CONFIG: ConfigRecord({LAMBDAS: [0.5]})})
    moments = answer(settings, RECALIBRATE, content)
    more = answer(quick_settings(tmp_path, model="mlp", norm="batch", path_samples=65), RECALIBRATE, content)
    assert not all(torch.equal(moments[name], more[name]) for name in moments)
    counts = [tensor.item() for name, tensor in moments.items() if name.endswith(".count")]
    assert counts == pytest.approx([TRAIN_SAMPLES] * len(counts))


def test_so_do_products_with_outputs(tmp_path: Path) -> None:
    grams: list[Tensor] = []
    for most in (0, 719):
        settings = quick_settings(tmp_path, model="mlp", merge="sequential", statistics_samples=most)
        state = to_arrays(build(Architecture(*settings.network), 0).state_dict())
        layer = next(str(name).removesuffix(".weight") for name in state if str(name).endswith(".weight"))
        content = RecordDict({MERGED: state, OWN: state, CONFIG: ConfigRecord({LAYERS: [layer]})})
        grid = InProcessGrid(app, settings, 1)
        (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, OUTPUTS)])
        grams += [to_state(reply.content.array_records[record])[layer] for record in (GRAMS, ACROSS)]
    for all_, some in zip(grams[:2], grams[2:], strict=True):
        assert torch.allclose(some.square().sum(), all_.square().sum(), rtol=0.1)


def test_data_that_lies_class_by_class_has_the_statistics_of_mixed_data(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, model="resnet20", depth=8, width=4)
    found = [
        answer(settings, RECALIBRATE, network(settings), data)
        for data in ("digits", "tests.test_statistics_samples:by_class")
    ]
    last = [name.removesuffix(".count") for name in found[0] if name.endswith(".count")][-1]
    mixed, sorted_ = (mean_and_variance(moments, last)[2] for moments in found)
    # In the order of the data it is 0.023.
    assert torch.allclose(mixed, sorted_, rtol=0.005)
