"""Networks of several inputs, such as an image and a table: merged, and their BatchNorm statistics renewed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from alignment import derive_spec, recalibrate
from alignment.errors import BatchError
from strategies import FedRebasin, Recalibration, recalibration_reply
from strategies.protocol import MERGED, RECALIBRATE, to_state
from tests.inprocess import FIRST_NODE, InProcessGrid, outside_flower, quick_settings


class ImageAndTable(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.table = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.last = nn.Linear(9, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        """A number for each class."""
        return self.last(torch.cat([self.image(image).flatten(1), self.table(table)], 1))


def two_inputs(partition: int, n: int = 12) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(partition)
    return torch.randn(n, 1, 5, 5, generator=drawn) + partition, torch.randn(n, 3, generator=drawn)


def image_and_table(seed: int) -> ImageAndTable:
    torch.manual_seed(seed)
    return ImageAndTable()


def test_networks_of_several_inputs_are_merged_and_recalibrated(tmp_path: Path) -> None:
    made, targets = ClientApp(), torch.zeros(12)

    @made.train()
    def _train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        arrays = ArrayRecord(image_and_table(1 + partition).state_dict())
        metrics = MetricRecord({"num-examples": 12})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @made.query("recalibrate")
    def _recalibrate(message: Message, context: Context) -> Message:
        batch = two_inputs(int(context.node_config["partition-id"]))
        return recalibration_reply(image_and_table(0), message, [(batch, targets)])

    model, example = image_and_table(0), two_inputs(0)

    def merged(recalibration: Recalibration | None) -> dict[str, Tensor]:
        strategy = FedRebasin(
            spec=derive_spec(model, example), reference="largest", fraction_evaluate=0.0, recalibration=recalibration
        )
        grid = InProcessGrid(made, quick_settings(tmp_path), 3)
        return to_state(strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=1).arrays)

    found, expected = merged(Recalibration(model, example)), image_and_table(0)
    expected.load_state_dict(merged(None))
    recalibrate(expected, [(two_inputs(partition), targets) for partition in range(3)])
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_a_lone_sample_of_several_inputs_joins_its_neighbour() -> None:
    apart, together = image_and_table(0), image_and_table(0)
    whole = two_inputs(0)
    recalibrate(apart, [(tuple(part[:11] for part in whole),), (tuple(part[11:] for part in whole),)])
    recalibrate(together, [(whole,)])
    for one, other in zip(apart.state_dict().values(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def test_an_example_is_what_the_spec_was_derived_from() -> None:
    model, example = image_and_table(0), two_inputs(0)
    one_input, inputs = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), torch.zeros(2, 4)
    assert Recalibration(one_input, (inputs,)).shapes == Recalibration(one_input, inputs).shapes
    assert "table.1.sum" in Recalibration(model, example).shapes
    with pytest.raises(ValueError, match=r"missing 1 required .* Give what forward takes: a tensor, or a tuple of"):
        Recalibration(model, example[0])


def test_batches_that_do_not_hold_all_inputs_first_are_told() -> None:
    outside_flower()
    content = RecordDict({MERGED: ArrayRecord(image_and_table(0).state_dict()), "config": ConfigRecord({})})
    message = Message(content, FIRST_NODE, RECALIBRATE)
    with pytest.raises(BatchError, match=r"missing 1 required .* as in \(\(image, table\), target\)"):
        recalibration_reply(image_and_table(0), message, [two_inputs(0)])


def test_a_batch_that_is_a_dict_is_told_with_the_way_out() -> None:
    outside_flower()
    content = RecordDict({MERGED: ArrayRecord(image_and_table(0).state_dict()), "config": ConfigRecord({})})
    batches: list[Any] = [{"image": two_inputs(0)[0]}]
    with pytest.raises(
        BatchError, match=r"of type dict, expected a tensor, or a tuple .* \(batch\['image'\] for batch in"
    ):
        recalibration_reply(image_and_table(0), Message(content, FIRST_NODE, RECALIBRATE), iter(batches))
