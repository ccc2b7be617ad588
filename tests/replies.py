"""Replies as sites would send them, made by hand."""

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from alignment.spec import PermutationSpec
from strategies.fed_rebasin import FedRebasin
from strategies.protocol import to_arrays

SPEC_AXES = {"hidden.weight": ("P", None), "hidden.bias": ("P",), "out.weight": (None, "P")}


def small_state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A network of two layers with a counter."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hidden.weight": (6, 4), "hidden.bias": (6,), "out.weight": (3, 6)}
    state = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return {**state, "steps": torch.tensor(seed + 1)}


def small_spec() -> PermutationSpec:
    """The spec of `small_state`."""
    return PermutationSpec.by_hand(small_state(0), SPEC_AXES)


def no_groups() -> PermutationSpec:
    """A spec that lets nothing move."""
    return PermutationSpec.by_hand(small_state(0), {})


def train_reply(node_id: int, state: Mapping[str, Tensor], examples: float = 10, **metrics: float) -> Message:
    """What a site answers to ``train``."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    asked = Message(RecordDict({"config": ConfigRecord({})}), node_id, "train")
    metric_record = MetricRecord({"num-examples": examples, **metrics})
    return Message(RecordDict({"arrays": to_arrays(state), "metrics": metric_record}), reply_to=asked)


def ready(strategy: FedRebasin, sent: Mapping[str, Tensor]) -> FedRebasin:
    """``strategy``, as if it had just sent ``sent`` to nodes 1 to 9, named a to i."""
    strategy.remember(to_arrays(sent), {node: chr(ord("a") + node - 1) for node in range(1, 10)})
    return strategy


def same_floats(left: ArrayRecord, right: ArrayRecord) -> bool:
    """Whether the floating point entries are equal, bit for bit."""
    names = [name for name in left if left[name].dtype.startswith("float")]
    return all(left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in names)


def spoilt_grams(gram: Tensor) -> dict[str, Tensor]:
    """By attack, what a site could send in place of the sums of xxᵀ that it was asked for."""
    lopsided, impossible = gram.clone(), gram.clone()
    lopsided[0, -1] = 2 * gram.diagonal().sum()
    # Squares as they were, and products larger than they allow.
    impossible[0, -1] = impossible[-1, 0] = 2 * gram.diagonal().sum()
    return {
        "wrong shape": gram[:-1],
        "not finite": gram * torch.nan,
        "negative": -gram,
        "lopsided": lopsided,
        "impossible": impossible,
    }
