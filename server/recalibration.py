"""BatchNorm statistics of merged networks, pooled over the sites.

The variance of units collapses in the mean of two networks (REPAIR, arXiv 2211.08403, section 3), so running statistics
are recomputed from the sites' moments after every merge; without that even an aligned merge is at chance.
"""

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from alignment.batch_norm import write_moments
from alignment.moments import Moments, pool_moments
from alignment.repair import fold, goals_between
from server.sites import Sites
from strategies.errors import Reason, RefusedReply
from strategies.protocol import CONFIG, GOALS, RECALIBRATE, REPAIR, SETTLED, State, to_arrays, to_state

MERGED = "merged"


def recalibrate(
    sites: Sites, model: nn.Module, states: Mapping[str, State], round_number: int
) -> dict[str, dict[str, Tensor]]:
    """``states`` with running statistics recomputed on all sites' training samples; unchanged without BatchNorm."""
    found = {name: dict(state) for name, state in states.items()}
    for number in range(sites.settings.recalibrate_passes if keeps_statistics(model) else 0):
        content = RecordDict({name: to_arrays(state) for name, state in found.items()})
        content[CONFIG] = ConfigRecord({SETTLED: number > 0})
        for name, moments in pooled_moments(sites, content, round_number).items():
            found[name] = write_moments(found[name], moments)
    return found


def repair(
    sites: Sites, model: nn.Module, merged: State, ends: Mapping[str, State], weights: Sequence[float], number: int
) -> dict[str, Tensor]:
    """``merged`` with its units' means and deviations those of its ends, on average (REPAIR, arXiv 2211.08403).

    Two trips: the ends' moments, pooled over all sites, are the goals; then the merged network's, each layer fed by
    corrected ones. Unchanged with BatchNorm, whose statistics `recalibrate` renews, and where no site answers.
    """
    if keeps_statistics(model):
        return dict(merged)
    moments = _pooled(sites, REPAIR, RecordDict({name: to_arrays(state) for name, state in ends.items()}), number)
    if moments.keys() != ends.keys():
        return dict(merged)
    goals = goals_between([moments[name] for name in ends], [weight / sum(weights) for weight in weights])
    content = RecordDict({MERGED: to_arrays(merged), GOALS: to_arrays(goals)})
    measured = _pooled(sites, REPAIR, content, number).get(MERGED)
    return dict(merged) if measured is None else fold(merged, measured, goals)


def pooled_moments(sites: Sites, content: RecordDict, round_number: int) -> dict[str, Moments]:
    """The BatchNorm moments of each network that ``content`` asks about, pooled over the sites that answered."""
    return _pooled(sites, RECALIBRATE, content, round_number)


def _pooled(sites: Sites, message_type: str, content: RecordDict, round_number: int) -> dict[str, Moments]:
    answers = sites.answers(message_type, content, round_number, _read)
    names = dict.fromkeys(name for answer in answers.values() for name in answer)
    return {name: pool_moments([answer[name] for answer in answers.values() if name in answer]) for name in names}


def _read(site: str, reply: Message) -> dict[str, Moments]:
    found: dict[str, Moments] = {name: to_state(record) for name, record in reply.content.array_records.items()}
    if any(not bool(tensor.isfinite().all()) for moments in found.values() for tensor in moments.values()):
        raise RefusedReply(Reason.NOT_FINITE, site, "moments")
    return found


def keeps_statistics(model: nn.Module) -> bool:
    """Whether the network has running statistics that a merge must renew."""
    return any(name.endswith("running_mean") for name in model.state_dict())
