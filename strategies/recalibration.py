"""BatchNorm statistics of a merge, in a Flower app of one's own: what the strategy asks, and what a node answers.

The variance of units collapses in the mean of networks (REPAIR, arXiv 2211.08403, section 3), and running averages of
the networks are not those of their mean: a merge of independent starts that keeps them is near chance.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import getLogger

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, write_moments
from alignment.batches import Call, CallBatch, network_with
from alignment.errors import BatchError, StateError
from alignment.moments import Moments, pool_moments
from strategies.admission import sound
from strategies.errors import RefusedReply
from strategies.exchange import Clock, exchange
from strategies.protocol import CONFIG, MERGED, RECALIBRATE, SETTLED, State, config_of, request, to_arrays, to_state
from strategies.sums import read_moments

logger = getLogger("fedrebasin")


def recalibration_reply(model: nn.Module, message: Message, batches: Iterable[CallBatch]) -> Message:
    """What a ClientApp answers to ``query.recalibrate``: BatchNorm moments of the network sent, on ``batches``.

    They are sums over the node's training samples, without augmentation. What stands first in a batch is the inputs: a
    tensor, or, where ``forward`` takes several, a tuple of them, as in ``((image, table), target)``. ``model`` gives
    the shape of the network, and is not touched. Raises `StateError` where what was sent is no state of it,
    `BatchError` for batches that it does not take.
    """
    network = network_with(model, to_state(message.content.array_records[MERGED]))
    try:
        moments = batch_norm_moments(network, batches, settled=bool(config_of(message).get(SETTLED, False)))
    except TypeError as error:
        raise BatchError(
            f"the network does not take the inputs of a batch: {error}. What stands first in a batch is the inputs: a "
            "tensor, or a tuple of all that forward takes, as in ((image, table), target)"
        ) from error
    return Message(RecordDict({MERGED: to_arrays(moments)}), reply_to=message)


@dataclass(frozen=True)
class Recalibration:
    """Renews the BatchNorm statistics of every merge by asking the nodes that took part for their moments.

    model    a network of the federation's shape; its weights do not matter
    example  what it is called with: a tensor, or a tuple of all that ``forward`` takes, as for `derive_spec`
    passes   how often: where nodes hold different classes, each pass makes statistics right one layer deeper
    deadline_seconds  of each pass; who is silent then is left out
    """

    model: nn.Module
    example: Call
    passes: int = 1
    deadline_seconds: float = 600.0
    clock: Clock = field(default_factory=Clock)
    shapes: Mapping[str, tuple[int, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes: expected 1 or more, got {self.passes}")
        try:
            # Settled, since one sample has no variance: the shapes are the same.
            expected = batch_norm_moments(self.model, [(self.example,)], settled=True)
        except (RuntimeError, TypeError, BatchError) as error:
            raise ValueError(
                f"example: the network does not take it: {error}. Give what forward takes: a tensor, or a tuple of "
                "several, as to derive_spec"
            ) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        object.__setattr__(self, "shapes", shapes)

    def renewed(self, state: State, grid: Grid, nodes: Mapping[int, str], server_round: int) -> State:
        """``state`` with statistics of all samples that ``nodes``, given by id and name, hold together.

        A bad answer is logged and left out. Without any good one the statistics stay.
        """
        for number in range(self.passes if self.shapes else 0):
            content = RecordDict({MERGED: to_arrays(state), CONFIG: ConfigRecord({SETTLED: number > 0})})
            messages = [request(i, RECALIBRATE, content, server_round, self.deadline_seconds) for i in nodes]
            told: dict[str, Moments] = {}
            for node, reply in exchange(grid, messages, self.deadline_seconds, self.clock):
                try:
                    answer = sound(nodes[node], reply)
                    told[nodes[node]] = read_moments(self.shapes, [MERGED], nodes[node], answer)[MERGED]
                except RefusedReply as verdict:
                    logger.warning("%s: %s", RECALIBRATE, verdict)
            if not told:
                logger.warning(
                    "BatchNorm statistics stay as they were: no node of %d answered query.recalibrate with moments, as "
                    'stands above. A ClientApp does with @app.query("recalibrate") and recalibration_reply',
                    len(nodes),
                )
                break
            level = logging.INFO if len(told) == len(nodes) else logging.WARNING
            logger.log(level, "BatchNorm statistics are those of %d nodes of %d", len(told), len(nodes))
            state = _written(state, [told[name] for name in sorted(told)])
        return state


def _written(state: State, moments: list[Moments]) -> State:
    """``state`` with the statistics that ``moments`` give together, if they give any."""
    try:
        written: dict[str, Tensor] = write_moments(state, pool_moments(moments))
    except StateError as error:
        logger.warning("BatchNorm statistics stay as they were: %s", error)
        return state
    return written
