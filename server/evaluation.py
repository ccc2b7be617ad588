"""How networks do on the union of the sites' held-out samples, from sums that the sites send."""

import math
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import add

from flwr.app import ConfigRecord, Message, RecordDict

from alignment.barrier import LossSums
from server.sites import Sites
from strategies.names import CORRECTED, ENSEMBLE
from strategies.protocol import CONFIG, EVALUATE, LOG_PRIOR, OWN, State, metrics_of, to_arrays, unpack_sums
from strategies.sums import check_asked


def evaluate(
    sites: Sites,
    networks: Mapping[str, State],
    log_priors: Mapping[str, list[float]] | None = None,
    ensemble: list[str] | None = None,
    own: bool = False,
) -> dict[str, dict[str, LossSums]]:
    """By site, the sums of each network, and of each with a log prior also corrected by it.

    Beside these, of the ``ensemble`` of the networks that it names, and of the site's ``own``, which costs a site one
    more pass and is not asked for under privacy.
    """
    content = RecordDict({name: to_arrays(state) for name, state in networks.items()})
    config = {LOG_PRIOR + name: prior for name, prior in (log_priors or {}).items()}
    asked = {ENSEMBLE: ensemble} if ensemble else {}
    content[CONFIG] = ConfigRecord({**config, **asked, OWN: own and sites.settings.privacy == "none"})
    corrected = [name + CORRECTED for name in log_priors or {}]
    names = [*networks, *corrected, *([ENSEMBLE] if ensemble else ())]
    return sites.answers(EVALUATE, content, sums_reader(names))


def sums_reader(asked: Collection[str]) -> Callable[[str, Message], dict[str, LossSums]]:
    """What reads, of a reply, the sums of the networks ``asked`` about, and of the site's own; or refuses it."""

    def read(site: str, reply: Message) -> dict[str, LossSums]:
        found = unpack_sums(site, metrics_of(site, reply))
        check_asked(site, found.keys() - {OWN}, asked)
        return found

    return read


def pool(answers: Mapping[str, Mapping[str, LossSums]]) -> dict[str, LossSums]:
    """The sums over all sites, network by network, of those networks that have a loss at every site.

    A network that diverged at one site has none: the mean of the others' would praise it.
    """
    names = dict.fromkeys(name for answer in answers.values() for name in answer if name != OWN)
    sums = {name: reduce(add, [answer[name] for answer in answers.values()]) for name in names}
    return {name: each for name, each in sums.items() if math.isfinite(each.loss)}
