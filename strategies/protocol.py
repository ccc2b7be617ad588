"""What server and sites say to each other: message types, the records in them, their keys and units.

=====================  ==========================================  ===================================================
message                server sends                                a site answers
=====================  ==========================================  ===================================================
``query.describe``     nothing                                     name, number of training and held-out samples
``train``              ``arrays`` and ``config``                   ``metrics``; ``arrays`` (its network) where asked to
                                                                   send it; ``matching`` where asked to align
``query.network``      nothing                                     ``arrays`` and ``metrics`` of what it trained last
``query.align``        ``arrays`` (the reference)                  the same, aligned; ``matching``; ``permutation``
``query.recalibrate``  networks, or two ends and ``lambdas``       BatchNorm moments of each: counts, sums, squares
``query.repair``       networks by name; ``goals`` for one          moments of each layer's outputs of each
``query.features``     networks by name                            of each, Σφφᵀ and Σφyᵀ of its last layer's inputs
``query.logistic``     networks by name                            of each, Σ −log p_y and its slope by the last layer
``query.gram``         its aligned network; names of ``layers``     the Gram matrix of each layer's inputs
``query.outputs``      the merged and its aligned network;         of each layer, the Gram matrix of its inputs in the
                       names of ``layers``                         one, and its products with the outputs in the other
``evaluate``           networks by name, ``config``                for each the sums of loss and of right answers
``query.probe``        two ends, ``lambdas``, moments of each      the same sums at each λ
=====================  ==========================================  ===================================================

Sums, not means, cross the wire, so that pooling over the sites is exact. No raw sample and no per-sample value does.
"""

import math
from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from alignment.barrier import LossSums
from alignment.spec import State
from strategies.bounds import MOST_EXAMPLES
from strategies.errors import Reason, RefusedReply

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
N_EXAMPLES = "num-examples"
CLASS_COUNTS = "class-counts"

PERMUTATION = "permutation"
MATCHING = "matching"

DESCRIBE = "query.describe"
TRAIN = "train"
NETWORK = "query.network"
ALIGN = "query.align"
RECALIBRATE = "query.recalibrate"
REPAIR = "query.repair"
FEATURES = "query.features"
LOGISTIC = "query.logistic"
GRAM = "query.gram"
OUTPUTS = "query.outputs"
EVALUATE = "evaluate"
PROBE = "query.probe"

ROUND = "server-round"
START = "start"
FIRST = "first"
SEND = "send"
TO_ALIGN = "align"
DESCRIPTION = "description"
TRAIN_SAMPLES = "train-samples"
REFERENCE_END = "reference"
CANDIDATE_END = "candidate"
LAMBDAS = "lambdas"
GOALS = "goals"
LAYERS = "layers"
SETTLED = "settled"
UNTIL = "until"
SCALES = "scales"
SCALED = "*"
STATISTICS = "statistics."
LOG_PRIOR = "log-prior."
OWN = "own"
MERGED = "merged"
GRAMS = "grams"
ACROSS = "across"

# A loss of zero may come out a little below.
ROUNDING = 1e-9


def to_arrays(state: State) -> ArrayRecord:
    """``state`` as it crosses the wire."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in state.items()})


def to_state(record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of ``record``, in its order."""
    return dict(record.to_torch_state_dict())


def pack_sums(sums: Mapping[str, LossSums]) -> MetricRecord:
    """The sums of several networks, each as ``[count, loss, correct]``."""
    return MetricRecord({name: [float(each.count), each.loss, each.correct] for name, each in sums.items()})


def unpack_sums(site: str, record: MetricRecord) -> dict[str, LossSums]:
    """The inverse of `pack_sums`; the loss of a network that diverged is infinite.

    Raises `RefusedReply` where a value is no list of three numbers that sums over samples can be.
    """
    found: dict[str, LossSums] = {}
    for name, values in record.items():
        if not isinstance(values, list) or len(values) != 3:
            raise RefusedReply(Reason.MALFORMED, site, f"metric {name!r:.80}: expected [count, loss, correct]")
        count, loss, correct = map(float, values)
        counted = 1 <= count <= MOST_EXAMPLES and count.is_integer()
        if not (counted and 0 <= correct <= count and not loss < -count * ROUNDING):
            raise RefusedReply(Reason.MOMENTS, site, f"metric {name!r:.80}: {values!r:.80} is no sum over samples")
        # A network that diverged has no loss: that is not the site's fault.
        found[name] = LossSums(int(count), loss if math.isfinite(loss) else math.inf, correct)
    return found


def scaled_name(name: str, number: int) -> str:
    """What the network ``name`` with its logits times the scale of that ``number`` is called in an answer."""
    return f"{name}{SCALED}{number}"


def pack_description(name: str, n_train: int, n_held_out: int) -> ConfigRecord:
    """What a site says of itself before the first round."""
    return ConfigRecord({"name": name, TRAIN_SAMPLES: n_train, "held-out-samples": n_held_out})


def request(node_id: int, message_type: str, content: RecordDict, round_number: int, ttl: float) -> Message:
    """A message to one site that expires after ``ttl`` seconds."""
    return Message(content, node_id, message_type, ttl=ttl, group_id=str(round_number))


def config_of(message: Message) -> ConfigRecord:
    """The config record of ``message``, or an empty one."""
    return message.content.config_records.get(CONFIG, ConfigRecord())


def metrics_of(site: str, message: Message) -> MetricRecord:
    """The metrics of a reply; raises `RefusedReply` when it has none."""
    if METRICS not in message.content.metric_records:
        raise RefusedReply(Reason.MALFORMED, site, f"no metric record {METRICS!r}")
    return message.content.metric_records[METRICS]
