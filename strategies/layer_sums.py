"""What a merge in closed form has each site send: of which layers, how many bytes. Server and site reckon alike."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from alignment.batches import Batch
from alignment.channels import key_of
from alignment.linear_layers import gram_sizes
from strategies.settings import Settings

MEGABYTE = 1_000_000
# Of each number, as sites send it.
DTYPE, BYTES = "float32", 4
MOST_NAMED = 5


@dataclass(frozen=True)
class LayerSums:
    """The sums over the inputs of each layer that sites send.

    every    rows of the Gram matrix of each layer that has one, in the order of the network
    outputs  how many outputs it is multiplied with: none for Gram matrices alone
    chosen   the layers of ``every`` that the limit has room for, in the same order
    limit    in megabytes
    """

    every: Mapping[str, int]
    outputs: Mapping[str, int]
    chosen: Mapping[str, int]
    limit: float

    @property
    def shortfall(self) -> str:
        """What the limit leaves out, in words; empty where it leaves out nothing."""
        left = [name for name in self.every if name not in self.chosen]
        if not left:
            return ""
        named = ", ".join(left[:MOST_NAMED]) + (f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else "")
        limit = f"gram-limit-megabytes = {self.limit:g} has no room for their sums"
        return f"{len(left)} of {len(self.every)} layers are merged by their mean: {limit} ({named})"

    def __str__(self) -> str:
        what = "sums for {} in turn" if self.outputs else "Gram matrices of {}"
        layers = "1 layer" if len(self.chosen) == 1 else f"{len(self.chosen)} layers"
        size = sum(_cost(rows, self.outputs.get(name, 0)) for name, rows in self.chosen.items()) / MEGABYTE
        return f"{what.format(layers)}, {size:.1f} MB of at most {self.limit:g} (gram-limit-megabytes)"


def layer_sums(model: nn.Module, example: Batch, settings: Settings, in_sequence: bool) -> LayerSums:
    """The sums for `merge = sequential`, or for `merge = least-squares`, of ``model``, which runs on ``example``."""
    every = gram_sizes(model, example)
    weights = model.state_dict()
    outputs = {name: len(weights[key_of(name, "weight")]) for name in every} if in_sequence else {}
    limit = settings.gram_limit_megabytes
    return LayerSums(every, outputs, affordable(every, limit, outputs), limit)


def affordable(
    sizes: Mapping[str, int], limit_megabytes: float, outputs: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The layers whose Gram matrices fit into the limit together, the smallest first, in the order of the network.

    With ``outputs`` of each layer, their products with these count too.
    """
    left = limit_megabytes * MEGABYTE
    chosen: set[str] = set()
    costs = {name: _cost(rows, (outputs or {}).get(name, 0)) for name, rows in sizes.items()}
    for name, cost in sorted(costs.items(), key=lambda item: item[1]):
        left -= cost
        if left >= 0:
            chosen.add(name)
    return {name: rows for name, rows in sizes.items() if name in chosen}


def _cost(rows: int, outputs: int) -> int:
    return rows * (rows + outputs) * BYTES
