"""BatchNorm statistics of merged networks, pooled over the sites.

The variance of units collapses in the mean of two networks (REPAIR, arXiv 2211.08403, section 3), so running statistics
are recomputed from the sites' moments after every merge; without that even an aligned merge is at chance.
"""

from collections.abc import Mapping

from flwr.app import Message, RecordDict
from torch import Tensor, nn

from alignment.batch_norm import write_moments
from alignment.moments import Moments, pool_moments
from server.sites import Sites
from strategies.errors import Reason, RefusedReply
from strategies.protocol import RECALIBRATE, State, to_arrays, to_state


def recalibrate(
    sites: Sites, model: nn.Module, states: Mapping[str, State], round_number: int
) -> dict[str, dict[str, Tensor]]:
    """``states`` with running statistics recomputed on all sites' training samples; unchanged without BatchNorm."""
    if not keeps_statistics(model):
        return {name: dict(state) for name, state in states.items()}
    content = RecordDict({name: to_arrays(state) for name, state in states.items()})
    pooled = pooled_moments(sites, content, round_number)
    return {
        name: write_moments(state, pooled[name]) if name in pooled else dict(state) for name, state in states.items()
    }


def pooled_moments(sites: Sites, content: RecordDict, round_number: int) -> dict[str, Moments]:
    """The moments of each network that ``content`` asks about, pooled over the sites that answered."""
    answers = sites.answers(RECALIBRATE, content, round_number, _read)
    names = {name for answer in answers.values() for name in answer}
    return {name: pool_moments([answer[name] for answer in answers.values() if name in answer]) for name in names}


def _read(site: str, reply: Message) -> dict[str, Moments]:
    found: dict[str, Moments] = {name: to_state(record) for name, record in reply.content.array_records.items()}
    if any(not bool(tensor.isfinite().all()) for moments in found.values() for tensor in moments.values()):
        raise RefusedReply(Reason.NOT_FINITE, site, "moments")
    return found


def keeps_statistics(model: nn.Module) -> bool:
    """Whether the network has running statistics that a merge must renew."""
    return any(name.endswith("running_mean") for name in model.state_dict())
