"""Flower's SecAgg+ at the server: the weighted mean of aligned networks, none of which it ever sees.

Flower has SecAgg+ for its older interface alone (`SecAggPlusWorkflow`), in four stages that ask a strategy and a
context of that interface for a few things. `Stand` gives them; the cryptography, the quantisation and the recovery of
sites that are lost are Flower's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from math import ceil
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common import FitIns, FitRes, Parameters, parameters_to_ndarrays
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from torch import Tensor

from alignment.spec import PermutationSpec
from server.masked import Wire
from server.sites import Sites
from strategies.errors import OperatorError, RefusedReply
from strategies.privacy import covered_shape, learned
from strategies.protocol import TO_ALIGN, State, to_arrays
from strategies.quantization import modulus, most_sites, quantization_steps
from strategies.settings import Settings

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


# Of 2²² steps, what a site's weight must be on average: 1/256 of the greatest.
FEWEST_STEPS = 2**14


@dataclass(frozen=True)
class Opened:
    """What came of a sum: the mean and the weights of the sites that are in it, or neither; and the verdicts."""

    mean: dict[str, Tensor] | None
    weights: dict[str, float]
    refused: list[RefusedReply]


def secure_mean(sites: Sites, spec: PermutationSpec, sent: State, first: bool) -> Opened:
    """The weighted mean of the networks that the sites train from ``sent`` and align to it.

    Buffers are those of ``sent``. Sites that are lost, or whose replies cannot be read, are left out. There is no mean
    when fewer are left than may open the sum, when Flower fails at what a site said, and when the sum is one that
    honest sites cannot make. Raises `OperatorError` for more sites than a sum has room for.
    """
    if len(sites.names) > most_sites:
        raise OperatorError(
            f"{len(sites.names)} sites joined: secure aggregation adds up at most {most_sites} in 32 bits. "
            f"Stop SuperNodes until {most_sites} are left, or set privacy to 'none'."
        )
    arrays = to_arrays(sent)
    names = learned(spec, arrays)
    most_samples = max(1, *(sites.samples[name] for name in sites.names.values()))
    wire = Wire(sites, [(1,), *(covered_shape(sent[name].shape) for name in names)], most_samples)
    try:
        results = _play(wire, sites.to_train(arrays, first, {TO_ALIGN: True}))
        weights = {sites.names[proxy.node_id]: float(result.num_examples) for proxy, result in results}
        values = parameters_to_ndarrays(results[0][1].parameters) if results else []
        could_be = _could_be(values, weights.values(), most_samples, sites.settings.secure_range)
    # Some of what sites say, only Flower's cryptography can judge, as it fails; that costs the round, never the run.
    except Exception:
        logger.exception("round %d: the sum cannot be opened", sites.round_number)
        return Opened(None, {}, wire.refused)
    if not could_be:
        logger.warning("round %d: no sum, or one that honest sites cannot make", sites.round_number)
        return Opened(None, {}, wire.refused)
    mean = {n: torch.from_numpy(each).to(sent[n].dtype).view_as(sent[n]) for n, each in zip(names, values, strict=True)}
    # A site that was lost at the very end is in the mean all the same.
    refused = [verdict for verdict in wire.refused if verdict.site not in weights]
    return Opened({n: mean.get(n, tensor) for n, tensor in sent.items()}, dict(sorted(weights.items())), refused)


def _could_be(values: Sequence[np.ndarray], weights: Collection[float], most: int, bound: float) -> bool:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    """Whether honest sites, which cut to ± ``bound`` and round, can have this mean: nonsense is nearly always beyond.

    Each rounds by less than a step of 2 · bound / 2²², and the mean divides by the sum of the shares of the greatest
    weight.
    """
    shares = sum(round(weight / most * quantization_steps) for weight in weights)
    # A share below these steps rounds a weight, and all that it weighs, by percents.
    if not values or shares < FEWEST_STEPS * len(weights):
        return False
    limit = bound * (1 + 2 * len(weights) / shares)
    return all(bool((np.abs(each) <= limit).all()) for each in values)


def threshold(n_sites: int, settings: Settings) -> int:
    """How many of the sites must stay to the end: ``secure-threshold`` of them, more than half, and ``min-sites``.

    Fewer cannot open the sum. Without ``min-sites`` it could be opened over two, each of which would know the other's.
    """
    return max(settings.min_sites, n_sites // 2 + 1, ceil(settings.secure_threshold * n_sites))


def _play(wire: Wire, asked: RecordDict) -> list[tuple[Any, FitRes]]:
    """The results of the four stages, each of which holds the mean; none as soon as too few sites are left."""
    settings, nodes = wire.sites.settings, list(wire.sites.names)
    workflow = SecAggPlusWorkflow(
        1.0,
        threshold(len(nodes), settings),
        max_weight=float(wire.most_samples),
        clipping_range=settings.secure_range,
        quantization_range=quantization_steps,
        modulus_range=modulus,
    )
    stand, state = Stand(nodes, wire.sites.round_number), WorkflowState()
    grid, context = cast(Any, wire), stand.context
    if not workflow.setup_stage(grid, context, state) or not workflow.share_keys_stage(grid, context, state):
        return []
    # A site that was lost before it shared its keys masked nothing, and nobody holds a share of its keys: Flower would
    # ask for one all the same.
    state.sampled_node_ids = set(state.active_node_ids)
    state.nid_to_neighbours = {node: near & state.active_node_ids for node, near in state.nid_to_neighbours.items()}
    # Flower's own instructions are empty; the sites get those of any other training.
    state.nid_to_fitins = {node: RecordDict(dict(asked)) for node in nodes}
    masked = workflow.collect_masked_vectors_stage(grid, context, state)
    return stand.results if masked and workflow.unmask_stage(grid, context, state) else []
