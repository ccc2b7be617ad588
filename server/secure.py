"""Flower's SecAgg+ at the server: the weighted mean of aligned networks, none of which it ever sees.

Flower has SecAgg+ for its older interface alone (`SecAggPlusWorkflow`), in four stages that ask a strategy and a
context of that interface for a few things. `Stand` gives them; the cryptography, the quantisation and the recovery of
sites that are lost are Flower's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import getLogger
from types import SimpleNamespace
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common import FitIns, FitRes, Parameters, parameters_to_ndarrays
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from torch import Tensor

from server.sites import Sites
from strategies.protocol import ARRAYS, CONFIG, FIRST, ROUND, START, TO_ALIGN, State, to_arrays

logger = getLogger("fedrebasin")
MAIN_CONFIG, MAIN_PARAMETERS, CURRENT_ROUND = "config", "parameters", "current_round"


@dataclass
class Stand:
    """What Flower's workflow asks of a strategy and a context of the older interface."""

    nodes: Sequence[int]
    round_number: int
    results: list[tuple[Any, FitRes]] = field(default_factory=list[tuple[Any, FitRes]])

    @property
    def context(self) -> Any:
        """The context: which round it is, and this strategy."""
        records = {MAIN_CONFIG: ConfigRecord({CURRENT_ROUND: self.round_number}), MAIN_PARAMETERS: ArrayRecord()}
        manager = SimpleNamespace(num_available=lambda: len(self.nodes))
        return SimpleNamespace(state=RecordDict(dict(records)), strategy=self, client_manager=manager)  # pyright: ignore[reportArgumentType]

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: object) -> list[Any]:
        """Every site; what it is sent is laid in its message later."""
        return [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self.nodes]

    def aggregate_fit(self, server_round: int, results: list[tuple[Any, FitRes]], failures: object) -> tuple[None, Any]:
        """Takes the results, each of which holds the mean by now."""
        self.results = results
        return None, {}


def secure_mean(
    sites: Sites, sent: State, round_number: int, first: bool
) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """The weighted mean of the networks that the sites train from ``sent`` and align to it, and the sites' weights.

    Integers are those of ``sent``. Sites that are lost after keys were exchanged are left out. None when too few are
    left to unmask, or fewer than ``min-sites``.
    """
    settings = sites.settings
    workflow = SecAggPlusWorkflow(
        1.0,
        settings.secure_threshold,
        max_weight=float(max(sites.samples.values(), default=1)),
        clipping_range=settings.secure_range,
        timeout=settings.round_deadline_seconds,
    )
    stand, state = Stand(list(sites.names), round_number), WorkflowState()
    if not _play(workflow, sites, stand, state, _training(sites, sent, round_number, first)):
        logger.warning("round %d: secure aggregation could not be finished", round_number)
        return None
    weights = {sites.names[proxy.node_id]: float(result.num_examples) for proxy, result in stand.results}
    if len(weights) < settings.min_sites:
        return None
    arrays = iter(parameters_to_ndarrays(stand.results[0][1].parameters))
    mean = {
        name: torch.from_numpy(next(arrays)).to(tensor.dtype).reshape(tensor.shape)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in sent.items()
    }
    return mean, dict(sorted(weights.items()))


def _training(sites: Sites, sent: State, round_number: int, first: bool) -> RecordDict:
    start = sites.settings.start if first else "shared"
    config = ConfigRecord({ROUND: round_number, FIRST: first, START: start, TO_ALIGN: True})
    return RecordDict({ARRAYS: to_arrays(sent), CONFIG: config})


def _play(workflow: SecAggPlusWorkflow, sites: Sites, stand: Stand, state: WorkflowState, asked: RecordDict) -> bool:
    """The four stages; false as soon as too few sites are left."""
    grid, context = cast(Any, sites.grid), stand.context
    if not workflow.setup_stage(grid, context, state) or not workflow.share_keys_stage(grid, context, state):
        return False
    # A site that was lost before it shared its keys masked nothing, and nobody holds a share of its keys: Flower would
    # ask for one all the same.
    state.sampled_node_ids = set(state.active_node_ids)
    state.nid_to_neighbours = {node: near & state.active_node_ids for node, near in state.nid_to_neighbours.items()}
    # Flower's own instructions are empty; the sites get those of any other training.
    state.nid_to_fitins = {node: RecordDict(dict(asked)) for node in stand.nodes}
    masked = workflow.collect_masked_vectors_stage(grid, context, state)
    return masked and workflow.unmask_stage(grid, context, state)
