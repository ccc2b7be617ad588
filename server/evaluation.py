"""How networks do on the union of the sites' held-out samples, from sums that the sites send."""

from collections.abc import Mapping
from functools import reduce
from operator import add

from flwr.app import ConfigRecord, Message, RecordDict

from alignment.barrier import LossSums
from server.sites import Sites
from strategies.protocol import (
    CONFIG,
    ENSEMBLE,
    EVALUATE,
    LOG_PRIOR,
    OWN,
    State,
    metrics_of,
    to_arrays,
    unpack_sums,
)


def evaluate(
    sites: Sites,
    networks: Mapping[str, State],
    round_number: int,
    log_priors: Mapping[str, list[float]] | None = None,
    ensemble: list[str] | None = None,
) -> dict[str, dict[str, LossSums]]:
    """By site, the sums of each network; with a log prior also corrected; and of an ensemble."""
    content = RecordDict({name: to_arrays(state) for name, state in networks.items()})
    config = {LOG_PRIOR + name: prior for name, prior in (log_priors or {}).items()}
    # Without baselines to measure, each site also says how its own network does at home; not with privacy around it.
    asked = {ENSEMBLE: ensemble} if ensemble else {OWN: sites.settings.privacy == "none"}
    content[CONFIG] = ConfigRecord({**config, **asked})
    return sites.answers(EVALUATE, content, round_number, read_sums)


def read_sums(site: str, reply: Message) -> dict[str, LossSums]:
    """The sums in a reply; raises `RefusedReply`."""
    return unpack_sums(site, metrics_of(site, reply))


def pool(answers: Mapping[str, Mapping[str, LossSums]]) -> dict[str, LossSums]:
    """The sums over all sites, network by network."""
    names = dict.fromkeys(name for answer in answers.values() for name in answer)
    return {name: reduce(add, [answer[name] for answer in answers.values() if name in answer]) for name in names}
