"""BatchNorm statistics of merged networks, pooled over the sites.

The variance of units collapses in the mean of two networks (REPAIR, arXiv 2211.08403, section 3), so running statistics
are recomputed from the sites' moments after every merge; without that even an aligned merge is at chance.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from alignment.batch_norm import batch_norm_moments, batch_norms, write_moments
from alignment.errors import StateError
from alignment.moments import Moments, pool_moments
from alignment.partial_run import needed
from alignment.repair import fold, goals_between, unit_moments
from models import Architecture, example_inputs
from server.sites import Sites
from server.sums import moments_reader, shapes_of
from strategies.bounds import MOST_NORM, update_norm
from strategies.protocol import CONFIG, GOALS, MERGED, RECALIBRATE, REPAIR, SETTLED, UNTIL, State, to_arrays
from strategies.settings import Settings

Read = Callable[[str, Message], dict[str, Moments]]


def recalibrate(
    sites: Sites, model: nn.Module, states: Mapping[str, State], until: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """``states`` with running statistics recomputed on all sites' training samples; unchanged without BatchNorm.

    With ``until``, those of the layers that run before that one, and no more of the networks is sent.
    """
    found = {name: dict(state) for name, state in states.items()}
    keys = front_of(model, sites.settings, until) if until is not None else model.state_dict().keys()
    concerned = shapes_of(batch_norm_moments, model, sites.settings.network, until)
    for number in range(sites.settings.recalibrate_passes if concerned else 0):
        content = RecordDict({name: to_arrays({key: state[key] for key in keys}) for name, state in found.items()})
        content[CONFIG] = ConfigRecord({SETTLED: number > 0, **({} if until is None else {UNTIL: until})})
        for name, moments in pooled_moments(sites, model, content, list(found), until).items():
            try:
                found[name] = write_moments(found[name], moments)
            except StateError as error:
                sites.note(f"statistics of {name} stay as they were: {error}")
    return found


def repair(
    sites: Sites, model: nn.Module, merged: State, ends: Mapping[str, State], weights: Sequence[float]
) -> dict[str, Tensor]:
    """``merged`` with its units' means and deviations those of its ends, on average (REPAIR, arXiv 2211.08403).

    A trip for each of the ends, so that no message holds more than one network: their moments, pooled over all sites,
    are the goals. One more for the merged network's, each layer fed by corrected ones. With BatchNorm it comes after
    `recalibrate`, and corrects the layers behind the last of them. Unchanged where not every site of the merge answers
    all, since moments of other samples are no goals, and where the moments give weights that no network has.
    """
    moments: list[Moments] = []
    for name, state in ends.items():
        read = moments_reader(unit_moments, model, sites.settings, [name])
        found = _of_all(sites, RecordDict({name: to_arrays(state)}), read)
        if found is None:
            return dict(merged)
        moments.append(found[name])
    goals = goals_between(moments, [weight / sum(weights) for weight in weights])
    content = RecordDict({MERGED: to_arrays(merged), GOALS: to_arrays(goals)})
    measured = _of_all(sites, content, moments_reader(unit_moments, model, sites.settings, [MERGED]))
    if measured is None:
        return dict(merged)
    folded = fold(merged, measured[MERGED], goals)
    if not update_norm(folded, merged) <= MOST_NORM:
        sites.note("units keep the means and deviations of the mean: the moments give weights that no network has")
        return dict(merged)
    return folded


def pooled_moments(
    sites: Sites,
    model: nn.Module,
    content: RecordDict,
    asked: Sequence[str],
    until: str | None = None,
) -> Mapping[str, Moments]:
    """The BatchNorm moments of each network that ``content`` asks about, pooled over the sites that answered.

    ``asked`` are the networks' names: those of the records, or, between two ends, the numbers of the points. ``until``
    is what ``content`` says.
    """
    read = moments_reader(batch_norm_moments, model, sites.settings, asked, until)
    answers = sites.answers(RECALIBRATE, content, read)
    sites.all_told(answers, sites.merging, "statistics are those of the other sites")
    return pool_answers(answers)


def _of_all(sites: Sites, content: RecordDict, read: Read) -> Mapping[str, Moments] | None:
    """The pooled moments of outputs; None where a site of the merge does not answer."""
    answers = sites.answers(REPAIR, content, read)
    told = sites.all_told(answers, sites.merging, "units keep the means and deviations of the mean")
    return pool_answers(answers) if told and answers else None


def pool_answers(answers: Mapping[str, Mapping[str, Moments]]) -> dict[str, dict[str, Tensor]]:
    """By network, the sums over the samples of all sites together."""
    names = dict.fromkeys(name for answer in answers.values() for name in answer)
    return {name: pool_moments([answer[name] for answer in answers.values()]) for name in names}


def example_of(settings: Settings) -> Tensor:
    """Samples of the shape that the run's network takes."""
    (inputs,) = example_inputs(Architecture(*settings.network))
    return inputs


@lru_cache(maxsize=128)
def front_of(model: nn.Module, settings: Settings, layer: str) -> tuple[str, ...]:
    """The tensors that ``model`` needs as far as to ``layer``: what of a network is sent, round after round."""
    return tuple(needed(model, layer, example_of(settings)))


def keeps_statistics(model: nn.Module) -> bool:
    """Whether the network has running statistics that a merge must renew."""
    return bool(batch_norms(model))
